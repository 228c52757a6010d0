"""Haystack's OpenAIChatGenerator and OpenAITextEmbedder."""

import json
from typing import Any

from checks import (
    BASE_MODEL,
    CHAT,
    CITIES,
    EMBEDDING_MODEL,
    EMBEDDINGS,
    OPENAI_FORMAT,
    PLAIN,
    QUESTION,
    SENTENCE,
    STREAMING,
    STRUCTURED,
    TOOLS,
    WEATHER,
    WEATHER_QUESTION,
    is_person,
    run,
)
from haystack.components.embedders import OpenAITextEmbedder
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import Tool
from haystack.utils import Secret


def ask(url: str, text: str, model: str = BASE_MODEL, **options: Any) -> ChatMessage:
    parameters = {"temperature": 0, **options.pop("parameters", {})}
    generator = OpenAIChatGenerator(
        api_key=Secret.from_token("none"),
        model=model,
        api_base_url=f"{url}/v1",
        generation_kwargs=parameters,
        max_retries=0,
        timeout=500,
        **options,
    )
    reply: ChatMessage = generator.run([ChatMessage.from_user(text)])["replies"][0]
    return reply


def plain(url: str) -> None:
    answer = ask(url, QUESTION, parameters={"max_completion_tokens": 12})
    assert "Paris" in (answer.text or ""), answer


def streaming(url: str) -> None:
    chunks: list[str] = []
    ask(
        url,
        QUESTION,
        parameters={"max_completion_tokens": 12},
        streaming_callback=lambda chunk: chunks.append(chunk.content),
    )
    assert len(chunks) > 2, chunks
    assert "Paris" in "".join(chunks), chunks


def tools(url: str) -> None:
    tool = Tool(**WEATHER, function=lambda city: f"sunny in {city}")
    choice = {"type": "function", "function": {"name": "get_weather"}}
    answer = ask(url, WEATHER_QUESTION, parameters={"tool_choice": choice}, tools=[tool])
    assert answer.tool_calls[0].arguments["city"] in CITIES, answer


def structured(url: str) -> None:
    form = OPENAI_FORMAT
    answer = ask(url, SENTENCE, "auto", parameters={"response_format": form})
    assert is_person(json.loads(answer.text or "")), answer


def embeddings(url: str) -> None:
    embedder = OpenAITextEmbedder(Secret.from_token("none"), EMBEDDING_MODEL, api_base_url=f"{url}/v1")
    assert len(embedder.run(QUESTION)["embedding"]) == 384


if __name__ == "__main__":
    chat = {PLAIN: plain, STREAMING: streaming, TOOLS: tools, STRUCTURED: structured}
    run({CHAT: chat, EMBEDDINGS: {PLAIN: embeddings}})
