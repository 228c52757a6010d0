"""Pydantic AI: an agent with text, a tool, and the engine's structured output."""

from checks import BASE_MODEL, CHAT, PLAIN, QUESTION, RESPONSES, SENTENCE, STREAMING, STRUCTURED, TOOLS, run
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

SHORT = ModelSettings(max_tokens=16, temperature=0)
LONG = ModelSettings(max_tokens=200, temperature=0)


class Person(BaseModel):
    name: str
    age: int


def provider(url: str) -> OpenAIProvider:
    return OpenAIProvider(base_url=f"{url}/v1", api_key="none")


def chat_model(url: str, name: str = BASE_MODEL) -> OpenAIChatModel:
    return OpenAIChatModel(name, provider=provider(url))


def responses_model(url: str) -> OpenAIResponsesModel:
    return OpenAIResponsesModel(BASE_MODEL, provider=provider(url))


def plain(url: str) -> None:
    answer = Agent(chat_model(url)).run_sync(QUESTION, model_settings=SHORT)
    assert "Paris" in answer.output, answer


def response(url: str) -> None:
    answer = Agent(responses_model(url)).run_sync(QUESTION, model_settings=SHORT)
    assert "Paris" in answer.output, answer


def streaming(url: str) -> None:
    stream = Agent(chat_model(url)).run_stream_sync(QUESTION, model_settings=SHORT)
    assert "Paris" in "".join(stream.stream_text(delta=True))


def structured(url: str) -> None:
    answer = Agent(chat_model(url, "auto"), output_type=NativeOutput(Person)).run_sync(SENTENCE, model_settings=LONG)
    assert answer.output.name, answer


def tools(url: str) -> None:
    answer = Agent(chat_model(url), output_type=ToolOutput(Person)).run_sync(SENTENCE, model_settings=LONG)
    assert answer.output.name, answer


if __name__ == "__main__":
    run(
        {
            CHAT: {PLAIN: plain, STREAMING: streaming, TOOLS: tools, STRUCTURED: structured},
            RESPONSES: {PLAIN: response},
        }
    )
