"""Inspect, with its providers for three APIs: evaluations of a question, of an agent with a tool, and of a schema."""

import json
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

from checks import (
    BASE_MODEL,
    CHAT,
    CITIES,
    CITIES_QUESTION,
    MESSAGES,
    PERSON,
    PLAIN,
    QUESTION,
    RESPONSES,
    SENTENCE,
    STREAMING,
    STRUCTURED,
    TOOL_RESULTS,
    TOOLS,
    WEATHER_QUESTION,
    is_person,
    run,
)
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig, Model, ResponseSchema, get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import Tool, tool
from inspect_ai.util import JSONSchema

Models = Callable[..., Model]


@tool
def get_weather() -> Tool:
    async def execute(city: str) -> str:
        """Returns the weather in a city.

        Args:
            city: The name of the city.
        """
        return f"sunny in {city}"

    return execute


def model(name: str, path: str, url: str, **options: Any) -> Model:
    return get_model(f"{name}/{BASE_MODEL}", base_url=f"{url}{path}", api_key="none", memoize=False, **options)


def answer_of(model: Model, question: str, target: str, **config: Any) -> Any:
    """Runs an evaluation of one question and returns its sample; fails unless the answer contains `target`."""
    task = Task(
        dataset=[Sample(input=question, target=target)],
        solver=[use_tools(get_weather()), generate()],
        scorer=includes(),
        config=GenerateConfig(max_tokens=200, temperature=0, max_retries=0, **config),
    )
    with tempfile.TemporaryDirectory() as folder:
        (log,) = eval(task, model=model, display="none", log_dir=folder)
        assert log.status == "success", log.error
        (sample,) = log.samples  # it reads them from the folder
    assert sample.scores["includes"].value == "C", sample.messages
    return sample


def checks_of(model: Models, stream: str) -> dict[str, Callable[[str], None]]:
    """Returns the checks for a model; `stream` is the name of the provider's option for streams."""

    def plain(url: str) -> None:
        sample = answer_of(model(url, **{stream: False}), QUESTION, "Paris")
        assert sum(usage.output_tokens for usage in sample.model_usage.values()) > 0, sample.model_usage

    def streaming(url: str) -> None:
        answer_of(model(url, **{stream: True}), QUESTION, "Paris")

    def tools(url: str) -> None:
        answer_of(model(url), WEATHER_QUESTION, f"sunny in {CITIES[0]}")

    def tool_results(url: str) -> None:
        """The model calls the tool for two cities at once."""
        sample = answer_of(model(url), CITIES_QUESTION, f"sunny in {CITIES[0]}")
        results = [message.text for message in sample.messages if message.role == "tool"]
        assert results == [f"sunny in {city}" for city in CITIES], sample.messages
        assert f"sunny in {CITIES[1]}" in sample.output.completion, sample.output

    def structured(url: str) -> None:
        schema = ResponseSchema(name="person", json_schema=JSONSchema(**PERSON), strict=True)
        sample = answer_of(model(url), SENTENCE, "Ann", response_schema=schema)
        assert is_person(json.loads(sample.output.completion)), sample.output

    return {PLAIN: plain, STREAMING: streaming, TOOLS: tools, TOOL_RESULTS: tool_results, STRUCTURED: structured}


if __name__ == "__main__":
    run(
        {
            CHAT: checks_of(partial(model, "openai-api/pointsman", "/v1"), "stream"),
            RESPONSES: checks_of(
                partial(model, "openai", "/v1", responses_api=True, responses_store=False), "streaming"
            ),
            MESSAGES: checks_of(partial(model, "anthropic", ""), "streaming"),
        }
    )
