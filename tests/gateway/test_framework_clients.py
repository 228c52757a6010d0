"""LangChain's and LlamaIndex's clients for OpenAI-compatible APIs, connected to the gateway."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from llama_index.core.llms import ChatMessage, MessageRole
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from pointsman_embedding import MiniLM
from pydantic import BaseModel, Field

from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.engine import DONE, ScriptedEngine, Step, answer, chunk, text_answer, usage
from tests.gateway.doubles.gateway import Gateway, Neighbours

Told = TypeVar("Told")


class Lost(BaseModel):
    """An item that was left on a train."""

    item: str = Field(description="what it is")


@tool
def refund(booking: str) -> str:
    """Refunds a booking."""
    return f"{booking} is paid back"


def calling(name: str, *arguments: str) -> list[Step]:
    head = {"index": 0, "id": "call_0", "type": "function", "function": {"name": name, "arguments": ""}}
    pieces = [head, *({"index": 0, "function": {"arguments": piece}} for piece in arguments)]
    return [*(chunk(tool_calls=[p]) for p in pieces), chunk(finish="tool_calls"), usage(), DONE]


@pytest.fixture
async def gateway(neighbours: Neighbours, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    # Disables telemetry.
    monkeypatch.setenv("LANGSMITH_TRACING", "false")
    neighbours.config.models["embeddings"] = {"minilm": {"local": True, "usd_per_million_tokens": 0.5}}
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        yield gateway


# -- LangChain


@pytest.fixture
async def lang(gateway: Gateway) -> AsyncIterator[Callable[..., ChatOpenAI]]:
    async with httpx.AsyncClient(verify=False) as http:
        with httpx.Client(verify=False) as http_sync:

            def open_client(**more: Any) -> ChatOpenAI:
                return ChatOpenAI(
                    model="auto", base_url=f"{gateway.url}/v1", api_key="none", max_retries=0,  # type: ignore[arg-type]  # a string is one
                    http_client=http_sync, http_async_client=http, **more,
                )  # fmt: skip

            yield open_client


@pytest.mark.parametrize("responses", [False, True], ids=["chat", "responses"])
async def test_langchain_gets_plain_and_streamed_answers(
    lang: Callable[..., ChatOpenAI], engine: ScriptedEngine, responses: bool
) -> None:
    engine.says(*answer("Hello", " you"))
    client = lang(use_responses_api=responses, stream_usage=True)
    got = await client.ainvoke([SystemMessage("Be kind."), HumanMessage(IN_CHAT)])
    assert got.text == "Hello you"
    assert got.usage_metadata is not None
    assert got.usage_metadata["total_tokens"] == 22
    assert (await asyncio.to_thread(client.invoke, IN_CHAT)).text == "Hello you"
    pieces = [piece async for piece in client.astream(IN_CHAT)]
    assert "".join(piece.text for piece in pieces) == "Hello you"
    assert sum(piece.usage_metadata["output_tokens"] for piece in pieces if piece.usage_metadata) == 2
    assert engine.bodies[0]["messages"][0]["content"].endswith("Be kind.")


@pytest.mark.parametrize("responses", [False, True], ids=["chat", "responses"])
async def test_langchain_calls_a_tool_and_returns_its_result(
    lang: Callable[..., ChatOpenAI], engine: ScriptedEngine, responses: bool
) -> None:
    engine.says(*calling("refund", '{"booking": ', '"AB12"}'))
    client = lang(use_responses_api=responses).bind_tools([refund])
    asked = HumanMessage("Pay back AB12")
    first = await client.ainvoke([asked])
    assert isinstance(first, AIMessage)
    assert [(c["name"], c["args"], c["id"]) for c in first.tool_calls] == [("refund", {"booking": "AB12"}, "call_0")]
    gathered: Any = None
    async for piece in client.astream([asked]):
        gathered = piece if gathered is None else gathered + piece
    assert gathered.tool_calls == first.tool_calls
    engine.says(*answer("Done."))
    second = await client.ainvoke([asked, first, ToolMessage("AB12 is paid back", tool_call_id="call_0")])
    assert second.text == "Done."
    messages = engine.bodies[-1]["messages"]
    assert [m["role"] for m in messages if m["role"] != "system"] == ["user", "assistant", "tool"]
    assert messages[-1] == {"role": "tool", "content": "AB12 is paid back", "tool_call_id": "call_0"}
    assert engine.bodies[-1]["tools"][0]["function"]["name"] == "refund"


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
async def test_langchain_gets_a_structured_answer(
    lang: Callable[..., ChatOpenAI], engine: ScriptedEngine, method: Any
) -> None:
    text = '{"item": "umbrella"}'
    engine.says(*(calling("Lost", text) if method == "function_calling" else answer(text)))
    got = await lang().with_structured_output(Lost, method=method).ainvoke("I lost my umbrella; answer in JSON")
    assert got == Lost(item="umbrella")


async def test_langchain_completes_a_prompt_and_embeds_texts(
    gateway: Gateway, engine: ScriptedEngine, minilm: MiniLM
) -> None:
    engine.says(*text_answer(" upon", " a time"))
    url, texts = f"{gateway.url}/v1", ["an umbrella", "a bicycle"]
    async with httpx.AsyncClient(verify=False) as http:
        with httpx.Client(verify=False) as http_sync:
            shared: dict[str, Any] = {"http_client": http_sync, "http_async_client": http, "max_retries": 0}
            # LangChain always sends n and best_of.
            completing = OpenAI(model="tiny", base_url=url, api_key="none", **shared)  # type: ignore[arg-type]  # a string is one
            assert await completing.ainvoke("Once") == " upon a time"
            embedding = OpenAIEmbeddings(
                model="minilm", base_url=url, api_key="none", check_embedding_ctx_length=False, **shared  # type: ignore[arg-type]  # a string is one
            )  # fmt: skip
            assert np.allclose(await embedding.aembed_documents(texts), minilm.embed(texts), atol=1e-6)
            assert np.allclose(
                await asyncio.to_thread(embedding.embed_query, texts[0]), minilm.embed(texts)[0], atol=1e-6
            )


# -- LlamaIndex


@pytest.fixture
async def llama(gateway: Gateway) -> AsyncIterator[Callable[..., OpenAILike]]:
    async with httpx.AsyncClient(verify=False) as http:
        with httpx.Client(verify=False) as http_sync:

            def open_client(model: str = "auto", **more: Any) -> OpenAILike:
                return OpenAILike(
                    model=model, api_base=f"{gateway.url}/v1", api_key="none", max_retries=0, http_client=http_sync,
                    async_http_client=http, **{"is_chat_model": True, "is_function_calling_model": True, **more},
                )  # fmt: skip

            yield open_client


async def test_llamaindex_gets_plain_and_streamed_answers(
    llama: Callable[..., OpenAILike], engine: ScriptedEngine
) -> None:
    engine.says(*answer("Hello", " you"))
    messages = [
        ChatMessage(role=MessageRole.SYSTEM, content="Be kind."),
        ChatMessage(role=MessageRole.USER, content=IN_CHAT),
    ]
    client = llama()
    assert (await client.achat(messages)).message.content == "Hello you"
    assert (await asyncio.to_thread(client.chat, messages)).message.content == "Hello you"
    pieces = [piece.delta async for piece in await client.astream_chat(messages)]
    assert "".join(piece or "" for piece in pieces) == "Hello you"
    assert (await client.acomplete(IN_CHAT)).text == "Hello you"


async def test_llamaindex_completes_a_prompt(llama: Callable[..., OpenAILike], engine: ScriptedEngine) -> None:
    engine.says(*text_answer(" upon", " a time"))
    client = llama("tiny", is_chat_model=False)
    assert (await client.acomplete("Once")).text == " upon a time"
    assert [piece.text async for piece in await client.astream_complete("Once")][-1] == " upon a time"
    assert engine.paths == ["/v1/completions"] * 2


async def test_llamaindex_calls_a_tool(llama: Callable[..., OpenAILike], engine: ScriptedEngine) -> None:
    engine.says(*calling("refund", '{"booking": "AB12"}'))
    client, tools = llama(), [FunctionTool.from_defaults(refund.func, name="refund")]  # type: ignore[attr-defined]  # a tool has one
    got = await client.achat_with_tools(tools, user_msg="Pay back AB12")
    calls = client.get_tool_calls_from_response(got)
    assert [(c.tool_name, c.tool_kwargs) for c in calls] == [("refund", {"booking": "AB12"})]


async def test_llamaindex_gets_a_structured_answer(llama: Callable[..., OpenAILike], engine: ScriptedEngine) -> None:
    engine.says(*calling("Lost", '{"item": "umbrella"}'))
    structured = llama().as_structured_llm(Lost)
    assert (await structured.achat([ChatMessage(content="I lost my umbrella")])).raw == Lost(item="umbrella")
    engine.says(*answer('{"item": "umbrella"}'))
    by_schema = llama(should_use_structured_outputs=True).as_structured_llm(Lost)
    assert (await by_schema.achat([ChatMessage(content="I lost my umbrella")])).raw == Lost(item="umbrella")
    assert engine.bodies[-1]["response_format"]["type"] == "json_schema"


async def test_llamaindex_embeds_texts(gateway: Gateway, minilm: MiniLM) -> None:
    texts = ["an umbrella", "a bicycle"]
    async with httpx.AsyncClient(verify=False) as http:
        with httpx.Client(verify=False) as http_sync:
            client = OpenAILikeEmbedding(
                model_name="minilm", api_base=f"{gateway.url}/v1", api_key="none", http_client=http_sync,
                async_http_client=http, max_retries=0,
            )  # fmt: skip
            assert np.allclose(await client.aget_text_embedding_batch(texts), minilm.embed(texts), atol=1e-6)
            assert np.allclose(
                await asyncio.to_thread(client.get_query_embedding, texts[0]), minilm.embed(texts)[0], atol=1e-6
            )
