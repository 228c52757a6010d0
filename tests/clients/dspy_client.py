"""DSPy's language model class, without a DSPy program, because a model this small does not follow DSPy's formats."""

import json
from typing import Any

import dspy
from checks import (
    BASE_MODEL,
    CHAT,
    OPENAI_FORMAT,
    OPENAI_TOOL,
    PLAIN,
    QUESTION,
    RESPONSES,
    SENTENCE,
    STRUCTURED,
    TOOLS,
    WEATHER_QUESTION,
    is_person,
    run,
)


def language_model(url: str, model: str = BASE_MODEL, **options: Any) -> dspy.LM:
    return dspy.LM(
        f"openai/{model}", api_base=f"{url}/v1", api_key="none", temperature=0, num_retries=0, cache=False, **options
    )


def plain(url: str) -> None:
    (text,) = language_model(url, max_tokens=12)(QUESTION)
    assert "Paris" in text, text


def response(url: str) -> None:
    (answer,) = language_model(url, model_type="responses", max_tokens=16)(QUESTION)
    assert "Paris" in str(answer), answer


def tools(url: str) -> None:
    tool = OPENAI_TOOL
    (answer,) = language_model(url, max_tokens=100)(
        WEATHER_QUESTION, tools=[tool], tool_choice="required", parallel_tool_calls=False
    )
    (call,) = answer["tool_calls"]
    assert call.function.name == "get_weather", answer


def structured(url: str) -> None:
    form = OPENAI_FORMAT
    (text,) = language_model(url, "auto", max_tokens=200)(SENTENCE, response_format=form)
    assert is_person(json.loads(text)), text


if __name__ == "__main__":
    run({CHAT: {PLAIN: plain, TOOLS: tools, STRUCTURED: structured}, RESPONSES: {PLAIN: response}})
