"""Semantic Kernel's OpenAIChatCompletion and OpenAITextEmbedding."""

import asyncio
from typing import Annotated, Any

from checks import (
    BASE_MODEL,
    CHAT,
    EMBEDDING_MODEL,
    EMBEDDINGS,
    PLAIN,
    QUESTION,
    SENTENCE,
    STREAMING,
    STRUCTURED,
    TOOLS,
    WEATHER_QUESTION,
    run,
)
from openai import AsyncOpenAI
from pydantic import BaseModel
from semantic_kernel import Kernel
from semantic_kernel.connectors.ai.function_choice_behavior import FunctionChoiceBehavior
from semantic_kernel.connectors.ai.open_ai import (
    OpenAIChatCompletion,
    OpenAIChatPromptExecutionSettings,
    OpenAITextEmbedding,
)
from semantic_kernel.contents import ChatHistory, FunctionCallContent
from semantic_kernel.functions import kernel_function


class Person(BaseModel):
    name: str
    age: int


class Weather:
    @kernel_function
    def get_weather(self, city: Annotated[str, "The city"]) -> str:
        """Returns the weather in a city."""
        return f"sunny in {city}"


def client(url: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def ask(url: str, text: str, model: str = BASE_MODEL, **settings: Any) -> Any:
    kernel = Kernel()
    kernel.add_plugin(Weather(), "weather")
    service = OpenAIChatCompletion(model, async_client=client(url))
    history = ChatHistory()
    history.add_user_message(text)
    chosen = OpenAIChatPromptExecutionSettings(**{"temperature": 0, "max_tokens": 12, **settings})
    return asyncio.run(service.get_chat_message_content(history, chosen, kernel=kernel))


def plain(url: str) -> None:
    assert "Paris" in str(ask(url, QUESTION))


def streaming(url: str) -> None:
    async def read() -> str:
        history = ChatHistory()
        history.add_user_message(QUESTION)
        settings = OpenAIChatPromptExecutionSettings(temperature=0, max_tokens=12)
        service = OpenAIChatCompletion(BASE_MODEL, async_client=client(url))
        chunks = service.get_streaming_chat_message_content(history, settings)
        return "".join([str(chunk) async for chunk in chunks])

    text = asyncio.run(read())
    assert "Paris" in text, text


def tools(url: str) -> None:
    choice = FunctionChoiceBehavior.Required(auto_invoke=False)
    answer = ask(url, WEATHER_QUESTION, max_tokens=100, parallel_tool_calls=False, function_choice_behavior=choice)
    (call,) = [item for item in answer.items if isinstance(item, FunctionCallContent)]
    assert (call.name, list(call.parse_arguments() or ())) == ("weather-get_weather", ["city"]), answer


def structured(url: str) -> None:
    answer = ask(url, SENTENCE, "auto", max_tokens=200, response_format=Person)
    assert Person.model_validate_json(str(answer)), answer


def embeddings(url: str) -> None:
    service = OpenAITextEmbedding(EMBEDDING_MODEL, async_client=client(url))
    assert asyncio.run(service.generate_embeddings([QUESTION, SENTENCE])).shape == (2, 384)


if __name__ == "__main__":
    chat = {PLAIN: plain, STREAMING: streaming, TOOLS: tools, STRUCTURED: structured}
    run({CHAT: chat, EMBEDDINGS: {PLAIN: embeddings}})
