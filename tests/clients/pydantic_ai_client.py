"""Pydantic AI: an agent with text, a tool as its output, and the engine's structured output."""

from checks import BASE_MODEL, QUESTION, SENTENCE, run
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class Person(BaseModel):
    name: str
    age: int


def model(url: str, name: str = BASE_MODEL) -> OpenAIChatModel:
    return OpenAIChatModel(name, provider=OpenAIProvider(base_url=f"{url}/v1", api_key="none"))


def plain(url: str) -> None:
    answer = Agent(model(url)).run_sync(QUESTION, model_settings={"max_tokens": 12, "temperature": 0})
    assert "Paris" in answer.output, answer


def structured(url: str) -> None:
    agent = Agent(model(url, "auto"), output_type=NativeOutput(Person))
    answer = agent.run_sync(SENTENCE, model_settings={"temperature": 0, "max_tokens": 200})
    assert answer.output.name, answer


def tools(url: str) -> None:
    agent = Agent(model(url), output_type=ToolOutput(Person))
    answer = agent.run_sync(SENTENCE, model_settings={"temperature": 0, "max_tokens": 200})
    assert answer.output.name, answer


if __name__ == "__main__":
    run({"plain": plain, "tools": tools, "structured output": structured})
