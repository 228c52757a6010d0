"""Sends the load: every kind of path, streamed and plain, over HTTP and gRPC, and typical errors."""

import asyncio
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import grpc
import httpx
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_servicekit.grpc_client import open_channel

from tests.monitoring.help_desk import HelpDesk

CLIENTS = 4


@dataclass(frozen=True)
class Question:
    text: str
    model: str = "auto"
    most: int = 24
    """Maximum tokens of an answer; small, so that a minute has many requests on two cores."""


QUESTIONS = (
    # lora; enough tokens for all of its JSON, because its validators would escalate an incomplete answer
    Question("left my green umbrella on the 17.40 to Saltby Harbour yesterday, pls tell me u have it!!", most=120),
    Question("Do I have to reserve a space for my bicycle?", most=80),  # rag; cached if it is complete
    Question("Draft a reply to a customer who asks whether her dog needs a ticket."),  # hybrid
    Question("What do 2 adults and 1 child of 8 pay together for singles from Larkmoor to Alder Bridge?"),  # prompt
    Question("Write a SQL query that joins two tables on their ids."),  # out of scope
    Question("The train was 50 minutes late. I want my compensation.", model="path:triage_few_shot"),
    Question("My bag is still on the 9.15 to Alder Bridge."),  # lora; refused, because it is cut off
    Question("hello there, how are you today?"),
)

BY_GRPC = QUESTIONS[-1]
KINDS = {"prompt", "rag", "lora", "hybrid"}


class Load:
    def __init__(self, help_desk: HelpDesk) -> None:
        self._house = help_desk
        self.kinds: Counter[str] = Counter()
        """How many answers each kind of path has completed."""
        self.statuses: Counter[int] = Counter()

    async def run(self) -> None:
        """Sends requests until it is cancelled."""
        async with (
            httpx.AsyncClient(base_url=f"{self._house.url}/v1", timeout=60) as client,
            open_channel(self._house.grpc) as channel,
            asyncio.TaskGroup() as tasks,
        ):
            for number in range(CLIENTS):
                tasks.create_task(self._ask_on(client, number))
            tasks.create_task(self._ask_over_grpc(gateway_pb2_grpc.GatewayStub(channel)))
            tasks.create_task(self._do_the_rest(client))

    async def _ask_on(self, client: httpx.AsyncClient, first: int) -> None:
        for turn in count(first):
            question = QUESTIONS[turn % len(QUESTIONS)]
            status = await self._ask(client, question, stream=turn // len(QUESTIONS) % 2 == 0)
            if status != 200:
                await asyncio.sleep(0.5)  # limits the rate of requests to a failing engine

    async def _ask(self, client: httpx.AsyncClient, question: Question, stream: bool) -> int:
        body = _body(question, question.most) | {"stream": stream}
        with suppress(httpx.TransportError):
            answer = await client.post("/chat/completions", json=body, headers=self._as(self._house.key))
            self.statuses[answer.status_code] += 1
            if answer.status_code == 200:
                self.kinds[answer.headers["x-pointsman-kind"]] += 1
                await self._rate(client, answer.headers["x-pointsman-decision-id"])
            return answer.status_code
        return 0

    async def _ask_over_grpc(self, gateway: gateway_pb2_grpc.GatewayStub) -> None:
        """Sends occasional gRPC calls that need no adapter, because adapters' slots are busy with other requests."""
        asked = pb.GenerateRequest(
            model=BY_GRPC.model,
            messages=[pb.Message(role="user", content=BY_GRPC.text)],
            sampling=pb.Sampling(max_tokens=4),
        )
        while True:
            with suppress(grpc.aio.AioRpcError):
                async for _ in gateway.GenerateStream(asked, metadata=tuple(self._as(self._house.key).items())):
                    pass
            await asyncio.sleep(1)

    async def _rate(self, client: httpx.AsyncClient, decision: str) -> None:
        body = {"decision_id": decision, "rating": 1.0}
        await client.post("/feedback", json=body, headers=self._as(self._house.key))

    async def _do_the_rest(self, client: httpx.AsyncClient) -> None:
        """Sends occasional requests of other kinds: for embeddings, over a limit, and without a key."""
        for number in count():
            question = QUESTIONS[number % len(QUESTIONS)]
            vectors, asked = {"model": "minilm", "input": [question.text]}, _body(question, most=1)
            with suppress(httpx.TransportError):
                await client.post("/embeddings", json=vectors, headers=self._as(self._house.key))
                limited = await client.post("/chat/completions", json=asked, headers=self._as(self._house.narrow_key))
                self.statuses[limited.status_code] += 1
                await client.post("/chat/completions", json=asked, headers=self._as(f"pk_{number}"))
            await asyncio.sleep(1)

    @staticmethod
    def _as(key: str) -> dict[str, str]:
        return {"authorization": f"Bearer {key}"}


def _body(question: Question, most: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": question.text}]
    return {"model": question.model, "messages": messages, "max_tokens": most}


async def until(moment: float) -> None:
    """Sleeps until this time of `time.monotonic`."""
    await asyncio.sleep(max(0.0, moment - time.monotonic()))
