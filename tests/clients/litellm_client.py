"""LiteLLM's SDK, as an OpenAI-compatible provider."""

import json
from typing import Any

import litellm
from checks import (
    BASE_MODEL,
    CHAT,
    CITIES,
    EMBEDDING_MODEL,
    EMBEDDINGS,
    OPENAI_TOOL,
    PERSON,
    PLAIN,
    QUESTION,
    RESPONSES,
    SENTENCE,
    STREAMED_TOOLS,
    STREAMING,
    STRUCTURED,
    TOOLS,
    WEATHER_QUESTION,
    is_person,
    run,
)

TOOL_PARAMETERS: dict[str, Any] = {
    "tools": [OPENAI_TOOL],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "max_tokens": 100,
}


def ask(url: str, text: str, model: str = BASE_MODEL, **parameters: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    return litellm.completion(
        f"openai/{model}", messages=messages, api_base=f"{url}/v1", api_key="none", temperature=0, **parameters
    )


def plain(url: str) -> None:
    assert "Paris" in ask(url, QUESTION, max_tokens=12).choices[0].message.content


def streaming(url: str) -> None:
    chunks = ask(url, QUESTION, max_tokens=12, stream=True)
    assert "Paris" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def tools(url: str) -> None:
    answer = ask(url, WEATHER_QUESTION, **TOOL_PARAMETERS)
    call = answer.choices[0].message.tool_calls[0].function
    assert json.loads(call.arguments)["city"] in CITIES, answer


def streamed_tools(url: str) -> None:
    answer = litellm.stream_chunk_builder(list(ask(url, WEATHER_QUESTION, **TOOL_PARAMETERS, stream=True)))
    call = answer.choices[0].message.tool_calls[0].function
    assert json.loads(call.arguments)["city"] in CITIES, answer


def structured(url: str) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    answer = ask(url, SENTENCE, "auto", response_format=form)
    assert is_person(json.loads(answer.choices[0].message.content)), answer


def embeddings(url: str) -> None:
    answer = litellm.embedding(
        f"openai/{EMBEDDING_MODEL}", [QUESTION, SENTENCE], api_base=f"{url}/v1", api_key="none", encoding_format="float"
    )
    assert [len(one["embedding"]) for one in answer.data] == [384, 384], answer


def response(url: str) -> None:
    answer = litellm.responses(
        model=f"openai/{BASE_MODEL}", input=QUESTION, api_base=f"{url}/v1", api_key="none", max_output_tokens=12
    )
    assert answer.output[0].content[0].text, answer


if __name__ == "__main__":
    run(
        {
            CHAT: {
                PLAIN: plain,
                STREAMING: streaming,
                TOOLS: tools,
                STREAMED_TOOLS: streamed_tools,
                STRUCTURED: structured,
            },
            RESPONSES: {PLAIN: response},
            EMBEDDINGS: {PLAIN: embeddings},
        }
    )
