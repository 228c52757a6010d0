"""Google's Agent Development Kit, through LiteLLM with two APIs: a whole turn with tools, and structured output."""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

from checks import (
    BASE_MODEL,
    CHAT,
    CITIES,
    CITIES_QUESTION,
    MESSAGES,
    PLAIN,
    QUESTION,
    SENTENCE,
    STREAMED_TOOLS,
    STREAMING,
    STRUCTURED,
    TOOL_RESULTS,
    TOOLS,
    WEATHER_QUESTION,
    is_person,
    run,
)
from google.adk.agents import LlmAgent
from google.adk.agents.run_config import RunConfig, StreamingMode
from google.adk.models.lite_llm import LiteLlm
from google.adk.runners import InMemoryRunner
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


def get_weather(city: str) -> str:
    """Returns the weather in a city."""
    return f"sunny in {city}"


def checks_of(provider: str, path: str) -> dict[str, Callable[[str], None]]:
    def texts(url: str, *questions: str, streamed: bool = False, **options: Any) -> Sequence[str]:
        """Asks the agent the questions in one conversation, and returns the texts of all its events."""
        model = LiteLlm(model=f"{provider}/{BASE_MODEL}", api_base=f"{url}{path}", api_key="none", num_retries=0)
        runner = InMemoryRunner(agent=LlmAgent(name="guide", model=model, **options))
        mode = RunConfig(streaming_mode=StreamingMode.SSE if streamed else StreamingMode.NONE)
        events = asyncio.run(runner.run_debug(list(questions), quiet=True, run_config=mode))
        assert not any(event.error_code for event in events), events
        parts = [part for event in events if event.content for part in event.content.parts]
        return [part.text for part in parts if part.text]

    def plain(url: str) -> None:
        (text,) = texts(url, QUESTION)
        assert "Paris" in text, text

    def streaming(url: str) -> None:
        *pieces, text = texts(url, QUESTION, streamed=True)
        assert len(pieces) > 1, pieces
        assert "".join(pieces) == text, (pieces, text)
        assert "Paris" in text, text

    def tools(url: str) -> None:
        (text,) = texts(url, WEATHER_QUESTION, tools=[get_weather])
        assert f"sunny in {CITIES[0]}" in text, text

    def streamed_tools(url: str) -> None:
        *_, text = texts(url, WEATHER_QUESTION, streamed=True, tools=[get_weather])
        assert f"sunny in {CITIES[0]}" in text, text

    def tool_results(url: str) -> None:
        """The agent calls the tool for two cities at once; the next turn of the conversation still has both results."""
        text, later = texts(url, CITIES_QUESTION, QUESTION, tools=[get_weather])
        assert all(f"sunny in {city}" in text for city in CITIES), text
        assert "Paris" in later, later

    def structured(url: str) -> None:
        (text,) = texts(url, SENTENCE, output_schema=Person)
        assert is_person(json.loads(text)), text

    return {
        PLAIN: plain,
        STREAMING: streaming,
        TOOLS: tools,
        STREAMED_TOOLS: streamed_tools,
        TOOL_RESULTS: tool_results,
        STRUCTURED: structured,
    }


if __name__ == "__main__":
    run({CHAT: checks_of("openai", "/v1"), MESSAGES: checks_of("anthropic", "")})
