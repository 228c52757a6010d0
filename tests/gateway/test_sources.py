"""The sources of an answer: what was in its prompt, where that is from, and how well it fits the question."""

from collections.abc import Sequence

import httpx
import pytest
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


async def test_with_guardrails_the_unchecked_text_is_not_shown(
    neighbours: Neighbours, passages: Sequence[pb.Passage]
) -> None:
    guardrail = {"name": "secrets", "check": {"regex": {"CODE": "code-[0-9]{4}"}}, "hooks": ["response"]}
    neighbours.config.rest_of_tasks["guardrails"] = [guardrail]
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        body = {"model": "auto", "messages": [{"role": "user", "content": IN_POLICY}]}
        sources = (await http.post("/v1/chat/completions", json=body)).json()["pointsman"]["sources"]
    assert [(s["document_id"], s["text"], s["heading"]) for s in sources] == [
        ("dogs.md", "", ""), ("bicycles.md", "", ""),
    ]  # fmt: skip
