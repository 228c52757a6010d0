"""Microsoft's Agent Framework with its clients of two APIs: a whole turn with tools, and structured output.

Its client of the Responses API continues conversations by id, unless the request says `store: false`.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from agent_framework import Agent
from agent_framework_openai import OpenAIChatClient, OpenAIChatCompletionClient, OpenAIEmbeddingClient
from checks import (
    BASE_MODEL,
    CHAT,
    CITIES,
    CITIES_QUESTION,
    EMBEDDING_MODEL,
    EMBEDDINGS,
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


class Person(BaseModel):
    name: str
    age: int


def get_weather(city: str) -> str:
    """Returns the weather in a city."""
    return f"sunny in {city}"


def checks_of(kind: type[Any], **options: Any) -> dict[str, Callable[[str], None]]:
    def agent(url: str) -> Agent:
        client = kind(model=BASE_MODEL, base_url=f"{url}/v1", api_key="none")
        return Agent(client=client, tools=[get_weather], default_options=options)

    async def plain(url: str) -> None:
        answer = await agent(url).run(QUESTION)
        assert "Paris" in answer.text, answer

    async def streaming(url: str) -> None:
        assert "Paris" in "".join([update.text async for update in agent(url).run(QUESTION, stream=True)])

    async def tools(url: str) -> None:
        answer = await agent(url).run(WEATHER_QUESTION)
        assert f"sunny in {CITIES[0]}" in answer.text, answer

    async def streamed_tools(url: str) -> None:
        text = "".join([update.text async for update in agent(url).run(WEATHER_QUESTION, stream=True)])
        assert f"sunny in {CITIES[0]}" in text, text

    async def tool_results(url: str) -> None:
        """The agent calls the tool for two cities at once; a later turn of the session still has both results."""
        weather = agent(url)
        session = weather.create_session()
        answer = await weather.run(CITIES_QUESTION, session=session)
        assert all(f"sunny in {city}" in answer.text for city in CITIES), answer
        later = await weather.run(QUESTION, session=session)
        assert "Paris" in later.text, later

    async def structured(url: str) -> None:
        answer = await agent(url).run(SENTENCE, options={"response_format": Person})
        assert answer.value == Person(name="Ann", age=30), answer

    return {
        PLAIN: sync(plain),
        STREAMING: sync(streaming),
        TOOLS: sync(tools),
        STREAMED_TOOLS: sync(streamed_tools),
        TOOL_RESULTS: sync(tool_results),
        STRUCTURED: sync(structured),
    }


async def embeddings(url: str) -> None:
    client = OpenAIEmbeddingClient(model=EMBEDDING_MODEL, base_url=f"{url}/v1", api_key="none")
    assert [len(each.vector) for each in await client.get_embeddings([QUESTION, SENTENCE])] == [384, 384]


def sync(check: Callable[[str], Coroutine[Any, Any, None]]) -> Callable[[str], None]:
    return lambda url: asyncio.run(check(url))


if __name__ == "__main__":
    run(
        {
            CHAT: checks_of(OpenAIChatCompletionClient),
            RESPONSES: checks_of(OpenAIChatClient, store=False),
            EMBEDDINGS: {PLAIN: sync(embeddings)},
        }
    )
