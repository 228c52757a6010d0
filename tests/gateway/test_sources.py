"""The sources of an answer: what was in its prompt, where that is from, and how well it fits the question."""

from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from pointsman.v1 import gateway_pb2, gateway_pb2_grpc
from pointsman.v1 import retriever_pb2 as pb
from pointsman_servicekit.grpc_client import open_channel

from tests.gateway.doubles.config_folder import IN_POLICY
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.http_clients import HttpStreamClient
from tests.gateway.doubles.retriever import ScriptedRetriever

BICYCLES = {
    "document_id": "bicycles.md",
    "title": "Bicycles",
    "heading": "Bicycles > Fares",
    "text": "Bicycles ride free.",
    "start": 40,
    "end": 59,
    "score": 0.8,
}
DOGS = {
    "document_id": "dogs.md",
    "title": "Dogs",
    "heading": "Dogs",
    "text": "Dogs pay half.",
    "start": 0,
    "end": 14,
    "score": 0.9,
    "url": "https://example.com/dogs",
}
"""It is the second in a prompt, by its name, and the better one."""


@pytest.fixture
def passages(retriever: ScriptedRetriever) -> Sequence[pb.Passage]:
    found = [
        pb.Passage(**{name: value for name, value in source.items() if name != "url"})  # type: ignore[arg-type]
        for source in (BICYCLES, DOGS)
    ]
    found[1].metadata["url"] = str(DOGS["url"])
    retriever.passages = found
    return found


async def test_an_answer_shows_its_passages_best_first(
    gateway: Gateway, http: httpx.AsyncClient, passages: Sequence[pb.Passage]
) -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": IN_POLICY}]}
    whole = (await http.post("/v1/chat/completions", json=body)).json()
    assert whole["pointsman"]["sources"] == [DOGS, BICYCLES]

    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    *_, last = [event async for event in HttpStreamClient(http).events(streamed)]
    assert last["pointsman"]["sources"] == [DOGS, BICYCLES]

    message = (await http.post("/v1/messages", json={**body, "max_tokens": 9})).json()
    assert message["pointsman"]["sources"] == [DOGS, BICYCLES]

    async with open_channel(gateway.grpc_address) as channel:
        asked = gateway_pb2.GenerateRequest(
            model="auto", messages=[gateway_pb2.Message(role="user", content=IN_POLICY)]
        )
        receipt = (await gateway_pb2_grpc.GatewayStub(channel).Generate(asked)).receipt
    assert [(s.heading, s.text, s.start, s.end, s.url) for s in receipt.sources] == [
        (s["heading"], s["text"], s["start"], s["end"], s.get("url", "")) for s in (DOGS, BICYCLES)
    ]


TEXT = "Hello there"
"""The scripted engine's answer."""
END = len(TEXT)


@pytest.mark.parametrize("stream", [False, True])
async def test_responses_cite_urls_and_files(gateway: Gateway, passages: Sequence[pb.Passage], stream: bool) -> None:
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="-") as client:
        asked: Any = {"model": "auto", "input": IN_POLICY}
        if stream:
            events = [event async for event in await client.responses.create(**asked, stream=True)]
            added = [event.annotation for event in events if event.type == "response.output_text.annotation.added"]
            response: Any = events[-1].response
        else:
            response = await client.responses.create(**asked)
    (part,) = response.output[0].content
    url, file = part.annotations
    assert (part.text, url.type, file.type) == (TEXT, "url_citation", "file_citation")
    assert (url.url, url.title, url.start_index, url.end_index) == (DOGS["url"], "Dogs", END, END)
    assert (file.file_id, file.filename, file.index) == ("bicycles.md", "Bicycles", END)
    assert not stream or added == [annotation.model_dump() for annotation in part.annotations]


async def test_a_chat_completion_cites_urls(gateway: Gateway, passages: Sequence[pb.Passage]) -> None:
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="-") as client:
        answer = await client.chat.completions.create(model="auto", messages=[{"role": "user", "content": IN_POLICY}])
    assert answer.choices[0].message.annotations is not None
    (annotation,) = answer.choices[0].message.annotations
    assert annotation.url_citation.model_dump() == {
        "url": DOGS["url"], "title": "Dogs", "start_index": END, "end_index": END,
    }  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
async def test_messages_cite_passages(gateway: Gateway, passages: Sequence[pb.Passage], stream: bool) -> None:
    async with AsyncAnthropic(base_url=gateway.url, api_key="-") as client:
        asked: Any = {"model": "auto", "max_tokens": 9, "messages": [{"role": "user", "content": IN_POLICY}]}
        if stream:
            async with client.messages.stream(**asked) as events:
                message: Any = await events.get_final_message()
        else:
            message = await client.messages.create(**asked)
        (block,) = message.content
        found = [(c.type, c.cited_text, c.source, c.title, c.search_result_index) for c in block.citations]
        assert found == [
            ("search_result_location", DOGS["text"], DOGS["url"], "Dogs", 0),
            ("search_result_location", BICYCLES["text"], "bicycles.md", "Bicycles", 1),
        ]
        # The client may send the answer back.
        said = {"role": "assistant", "content": [block.model_dump()]}
        again = [*asked["messages"], said, {"role": "user", "content": "And dogs?"}]
        assert (await client.messages.create(**{**asked, "messages": again})).content


async def test_with_guardrails_the_unchecked_text_is_not_shown(
    neighbours: Neighbours, passages: Sequence[pb.Passage]
) -> None:
    guardrail = {"name": "secrets", "check": {"regex": {"CODE": "code-[0-9]{4}"}}, "hooks": ["response"]}
    neighbours.config.rest_of_tasks["guardrails"] = [guardrail]
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        body = {"model": "auto", "messages": [{"role": "user", "content": IN_POLICY}]}
        sources = (await http.post("/v1/chat/completions", json=body)).json()["pointsman"]["sources"]
        message = (await http.post("/v1/messages", json={**body, "max_tokens": 9})).json()
    assert "citations" not in message["content"][0]
    assert [(s["document_id"], s["text"], s["heading"]) for s in sources] == [
        ("dogs.md", "", ""), ("bicycles.md", "", ""),
    ]  # fmt: skip
