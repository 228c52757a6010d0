"""OpenAI's Agents SDK, with both of its model classes."""

import asyncio
from typing import Any

import openai
from agents import (
    Agent,
    Model,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from checks import (
    BASE_MODEL,
    CHAT,
    PLAIN,
    QUESTION,
    RESPONSES,
    SENTENCE,
    STREAMING,
    STRUCTURED,
    TOOL_RESULTS,
    TOOLS,
    WEATHER_QUESTION,
    run,
)
from pydantic import BaseModel

set_tracing_disabled(True)
SHORT = ModelSettings(max_tokens=16, temperature=0)


class Person(BaseModel):
    name: str
    age: int


@function_tool
def get_weather(city: str) -> str:
    """Returns the weather in a city."""
    return f"sunny in {city}"


def model(kind: type[Any], url: str, name: str = BASE_MODEL) -> Model:
    return kind(model=name, openai_client=openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0))


def checks_of(kind: type[Any]) -> dict[str, Any]:
    def plain(url: str) -> None:
        answer = Runner.run_sync(Agent("Guide", model=model(kind, url), model_settings=SHORT), QUESTION)
        assert "Paris" in answer.final_output, answer

    def streaming(url: str) -> None:
        async def read() -> str:
            run = Runner.run_streamed(Agent("Guide", model=model(kind, url), model_settings=SHORT), QUESTION)
            text = ""
            async for event in run.stream_events():
                if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                    text += event.data.delta
            return text

        text = asyncio.run(read())
        assert "Paris" in text, text

    def tools(url: str) -> None:
        settings = ModelSettings(max_tokens=100, temperature=0, tool_choice="get_weather", parallel_tool_calls=False)
        agent = Agent(
            "Guide",
            model=model(kind, url),
            model_settings=settings,
            tools=[get_weather],
            tool_use_behavior="stop_on_first_tool",
        )
        answer = Runner.run_sync(agent, WEATHER_QUESTION)
        assert str(answer.final_output).startswith("sunny in"), answer

    def tool_results(url: str) -> None:
        settings = ModelSettings(max_tokens=100, temperature=0, tool_choice="get_weather", parallel_tool_calls=False)
        agent = Agent("Guide", model=model(kind, url), model_settings=settings, tools=[get_weather])
        answer = Runner.run_sync(agent, WEATHER_QUESTION)  # after the call the agent's choice is "auto" again
        assert len(answer.raw_responses) > 1, answer
        assert any("sunny in" in str(item) for item in answer.to_input_list()), answer

    def structured(url: str) -> None:
        settings = ModelSettings(max_tokens=200, temperature=0)
        agent = Agent("Reader", model=model(kind, url, "auto"), model_settings=settings, output_type=Person)
        answer = Runner.run_sync(agent, SENTENCE)
        assert isinstance(answer.final_output, Person), answer

    return {
        PLAIN: plain,
        STREAMING: streaming,
        TOOLS: tools,
        TOOL_RESULTS: tool_results,
        STRUCTURED: structured,
    }


if __name__ == "__main__":
    run({CHAT: checks_of(OpenAIChatCompletionsModel), RESPONSES: checks_of(OpenAIResponsesModel)})
