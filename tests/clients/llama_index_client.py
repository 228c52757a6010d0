"""LlamaIndex's OpenAILike, its class for servers other than OpenAI's."""

from typing import Any

from checks import (
    BASE_MODEL,
    CHAT,
    EMBEDDING_MODEL,
    EMBEDDINGS,
    PLAIN,
    QUESTION,
    SENTENCE,
    STREAMED_TOOLS,
    STREAMING,
    STRUCTURED,
    TOOLS,
    WEATHER_QUESTION,
    run,
)
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def get_weather(city: str) -> str:
    """Returns the weather in a city."""
    return f"sunny in {city}"


def language_model(url: str, model: str = BASE_MODEL, max_tokens: int = 12, **options: Any) -> OpenAILike:
    return OpenAILike(
        model=model,
        api_base=f"{url}/v1",
        api_key="none",
        is_chat_model=True,
        context_window=4096,
        temperature=0,
        max_tokens=max_tokens,
        max_retries=0,
        timeout=600,
        **options,
    )


def plain(url: str) -> None:
    answer = language_model(url).chat([ChatMessage(QUESTION)])
    assert "Paris" in (answer.message.content or ""), answer


def streaming(url: str) -> None:
    text = "".join(chunk.delta or "" for chunk in language_model(url).stream_chat([ChatMessage(QUESTION)]))
    assert "Paris" in text, text


def tools(url: str) -> None:
    llm = language_model(url, max_tokens=100, is_function_calling_model=True)
    tool = FunctionTool.from_defaults(get_weather)
    answer = llm.chat_with_tools([tool], user_msg=WEATHER_QUESTION, tool_required=True, allow_parallel_tool_calls=False)
    (call,) = llm.get_tool_calls_from_response(answer)
    assert (call.tool_name, list(call.tool_kwargs)) == ("get_weather", ["city"]), answer


def streamed_tools(url: str) -> None:
    llm = language_model(url, max_tokens=100, is_function_calling_model=True)
    tool = FunctionTool.from_defaults(get_weather)
    *_, answer = llm.stream_chat_with_tools(
        [tool], user_msg=WEATHER_QUESTION, tool_required=True, allow_parallel_tool_calls=False
    )
    (call,) = llm.get_tool_calls_from_response(answer)
    assert (call.tool_name, list(call.tool_kwargs)) == ("get_weather", ["city"]), answer


def structured(url: str) -> None:
    llm = language_model(url, "auto", 200, should_use_structured_outputs=True)
    answer = llm.as_structured_llm(Person).chat([ChatMessage(SENTENCE)])
    assert isinstance(answer.raw, Person), answer


def embeddings(url: str) -> None:
    model = OpenAILikeEmbedding(model_name=EMBEDDING_MODEL, api_base=f"{url}/v1", api_key="none")
    assert len(model.get_text_embedding(QUESTION)) == 384


if __name__ == "__main__":
    run(
        {
            CHAT: {
                PLAIN: plain,
                STREAMING: streaming,
                TOOLS: tools,
                STREAMED_TOOLS: streamed_tools,
                STRUCTURED: structured,
            },
            EMBEDDINGS: {PLAIN: embeddings},
        }
    )
