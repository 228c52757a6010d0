"""Strands Agents with the models of three APIs: a whole turn with tools, and structured output. It always streams."""

from collections.abc import Callable, Sequence
from typing import Any

from checks import (
    BASE_MODEL,
    CHAT,
    CITIES,
    CITIES_QUESTION,
    MESSAGES,
    QUESTION,
    RESPONSES,
    SENTENCE,
    STREAMED_TOOLS,
    STREAMING,
    STRUCTURED,
    TOOL_RESULTS,
    WEATHER_QUESTION,
    run,
)
from pydantic import BaseModel
from strands import Agent, tool
from strands.models.anthropic import AnthropicModel
from strands.models.model import Model
from strands.models.openai import OpenAIModel
from strands.models.openai_responses import OpenAIResponsesModel


class Person(BaseModel):
    name: str
    age: int


def agent(model: Model, messages: Sequence[Any] = ()) -> tuple[Agent, list[str]]:
    """Returns an agent whose conversation begins with `messages`, and the list of cities for which the agent calls its
    tool.
    """
    cities: list[str] = []

    @tool
    def get_weather(city: str) -> str:
        """Returns the weather in a city."""
        cities.append(city)
        return f"sunny in {city}"

    return Agent(model=model, messages=list(messages), tools=[get_weather], callback_handler=None), cities


def openai(kind: type[Any], url: str) -> Model:
    return kind(client_args={"base_url": f"{url}/v1", "api_key": "none", "max_retries": 0}, model_id=BASE_MODEL)


def anthropic(url: str) -> Model:
    return AnthropicModel(
        client_args={"base_url": url, "api_key": "none", "max_retries": 0}, model_id=BASE_MODEL, max_tokens=200
    )


def checks_of(model: Callable[[str], Model]) -> dict[str, Callable[[str], None]]:
    def streaming(url: str) -> None:
        answer = agent(model(url))[0](QUESTION)
        assert "Paris" in str(answer), answer

    def streamed_tools(url: str) -> None:
        weather, cities = agent(model(url))
        answer = weather(WEATHER_QUESTION)
        assert cities == [CITIES[0]], answer
        assert f"sunny in {CITIES[0]}" in str(answer), answer

    def tool_results(url: str) -> None:
        """The agent calls the tool for two cities at once; the next turn of the conversation still has both results."""
        weather, cities = agent(model(url))
        answer = weather(CITIES_QUESTION)
        assert sorted(cities) == sorted(CITIES), answer
        assert all(f"sunny in {city}" in str(answer) for city in CITIES), answer
        later, _ = agent(model(url), weather.messages)
        assert "Paris" in str(later(QUESTION)), later.messages

    def structured(url: str) -> None:
        answer = agent(model(url))[0](SENTENCE, structured_output_model=Person)
        assert answer.structured_output == Person(name="Ann", age=30), answer

    return {
        STREAMING: streaming,
        STREAMED_TOOLS: streamed_tools,
        TOOL_RESULTS: tool_results,
        STRUCTURED: structured,
    }


if __name__ == "__main__":
    run(
        {
            CHAT: checks_of(lambda url: openai(OpenAIModel, url)),
            RESPONSES: checks_of(lambda url: openai(OpenAIResponsesModel, url)),
            MESSAGES: checks_of(anthropic),
        }
    )
