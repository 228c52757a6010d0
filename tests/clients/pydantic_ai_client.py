"""Pydantic AI with the models of three APIs: an agent with text, a tool, a tool's result, and structured output."""

from collections.abc import Callable

from checks import (
    BASE_MODEL,
    CHAT,
    CITIES,
    MESSAGES,
    PLAIN,
    QUESTION,
    RESPONSES,
    SENTENCE,
    STREAMED_TOOLS,
    STREAMING,
    STRUCTURED,
    TOOL_RESULTS,
    TOOLS,
    WEATHER_QUESTION,
    run,
)
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.messages import ModelRequest, ModelResponse, ToolCallPart, ToolReturnPart, UserPromptPart
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.profiles import ModelProfile
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

SHORT = ModelSettings(max_tokens=16, temperature=0)
LONG = ModelSettings(max_tokens=200, temperature=0)


class Person(BaseModel):
    name: str
    age: int


def get_weather(city: str) -> str:
    """Returns the weather in a city."""
    return f"sunny in {city}"


def chat(url: str, name: str = BASE_MODEL) -> Model:
    return OpenAIChatModel(name, provider=OpenAIProvider(base_url=f"{url}/v1", api_key="none"))


def responses(url: str, name: str = BASE_MODEL) -> Model:
    return OpenAIResponsesModel(name, provider=OpenAIProvider(base_url=f"{url}/v1", api_key="none"))


def messages(url: str, name: str = BASE_MODEL) -> Model:
    # Pydantic AI knows from the names of Anthropic's models which of them take a JSON schema.
    profile = ModelProfile(supports_json_schema_output=True)
    return AnthropicModel(name, provider=AnthropicProvider(base_url=url, api_key="none"), profile=profile)


def checks_of(model: Callable[..., Model]) -> dict[str, Callable[[str], None]]:
    def plain(url: str) -> None:
        answer = Agent(model(url)).run_sync(QUESTION, model_settings=SHORT)
        assert "Paris" in answer.output, answer

    def streaming(url: str) -> None:
        stream = Agent(model(url)).run_stream_sync(QUESTION, model_settings=SHORT)
        assert "Paris" in "".join(stream.stream_text(delta=True))

    def tools(url: str) -> None:
        answer = Agent(model(url), output_type=ToolOutput(Person)).run_sync(SENTENCE, model_settings=LONG)
        assert answer.output.name, answer

    def streamed_tools(url: str) -> None:
        stream = Agent(model(url), output_type=ToolOutput(Person)).run_stream_sync(SENTENCE, model_settings=LONG)
        assert stream.get_output().name

    def tool_results(url: str) -> None:
        """The model gets its own call and the call's result, as in the second step of an agent."""
        agent = Agent(model(url), tools=[get_weather])
        question = ModelRequest(parts=[UserPromptPart(content=WEATHER_QUESTION)])
        call = ToolCallPart(tool_name="get_weather", args={"city": CITIES[0]}, tool_call_id="call_0")
        result = ToolReturnPart(tool_name="get_weather", content=get_weather(CITIES[0]), tool_call_id="call_0")
        history = [question, ModelResponse(parts=[call]), ModelRequest(parts=[result])]
        answer = agent.run_sync(message_history=history, model_settings=SHORT)
        assert answer.usage.requests == 1, answer
        assert answer.usage.input_tokens > 30, answer

    def structured(url: str) -> None:
        agent = Agent(model(url, "auto"), output_type=NativeOutput(Person))
        answer = agent.run_sync(SENTENCE, model_settings=LONG)
        assert answer.output.name, answer

    return {
        PLAIN: plain,
        STREAMING: streaming,
        TOOLS: tools,
        STREAMED_TOOLS: streamed_tools,
        TOOL_RESULTS: tool_results,
        STRUCTURED: structured,
    }


if __name__ == "__main__":
    run({CHAT: checks_of(chat), RESPONSES: checks_of(responses), MESSAGES: checks_of(messages)})
