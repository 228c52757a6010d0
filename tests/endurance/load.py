"""Clients of all protocols: HTTP plain and streamed, Responses, completions, embeddings, decisions, and gRPC."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import aiohttp
import grpc
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.grpc_errors import from_rpc_error
from pointsman_servicekit.keys.key_store import IssuedKey

from tests.endurance.engines import CLAUDE
from tests.endurance.truth import Record, Truth
from tests.endurance.world import World
from tests.fuzz.schemas import hostile_schema

AS_CHAT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
"""The base model's chat template, applied to raw completions, because the adapters were trained with it only."""
QUESTIONS = (
    "I left my umbrella on the 17.40 to Saltby Harbour yesterday, please tell me you have it",
    "Do I have to reserve a space for my bicycle?",
    "Draft a reply to a customer who asks whether her dog needs a ticket.",
    "What do 2 adults and 1 child of 8 pay together for singles from Larkmoor to Alder Bridge?",
    "hello there, how are you today?",
    "Write a SQL query that joins two tables on their ids.",
)
ABOUT_THE_DOCUMENT = "Is my bicycle free of charge on the ferry to Gull Island?"
MODELS = ("auto", "auto", "auto", "triage@prod", "voice@prod", "path:small_talk")
DEADLINES = (3.0, 6.0, 12.0)
SCHEMA = "schema"
"""The name in records of requests with a hostile schema."""
CLIENT_PATIENCE_SECONDS = 60.0
"""How long a client waits after the deadline of its request."""
MEAN_PAUSE_SECONDS = 0.4
"""Mean pause of a client between two requests."""

Answer = tuple[str, str, str, float | None]
"""Model, text, decision id, and cost in dollars (None if the answer states none)."""


class Refused(Exception):
    """Reports an error event in a stream; the message is the error's code."""


class Load:
    def __init__(self, world: World, truth: Truth, speed: float) -> None:
        self._world, self._truth, self._pause = world, truth, MEAN_PAUSE_SECONDS / speed
        self._random = random.Random()
        self.records: list[Record] = []
        self._running = asyncio.Event()
        self._running.set()
        self.sends_schemas = asyncio.Event()
        """Set while requests with hostile schemas are sent."""
        self._models = (*MODELS, CLAUDE) if world.kind.is_scripted else MODELS
        self._in_flight = 0
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._channels: dict[str, grpc.aio.Channel] = {}

    # -- running

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        clients: Sequence[tuple[str, Callable[[Record, IssuedKey, str, str], Awaitable[Answer]]]] = [
            ("chat", self._chat), ("chat", self._chat), ("chat stream", self._chat_stream),
            ("chat stream", self._chat_stream), ("responses", self._responses),
            ("responses stream", self._responses_stream), ("completions", self._completions),
            ("messages", self._messages), ("embeddings", self._embeddings), ("route", self._route),
            ("gRPC", self._grpc), ("gRPC stream", self._grpc_stream), ("spender", self._chat), (SCHEMA, self._schema),
        ]  # fmt: skip
        async with AsyncExitStack() as stack:
            for name, gateway in self._world.gateways.items():
                session = aiohttp.ClientSession(gateway.url, connector=aiohttp.TCPConnector(limit=0))
                self._sessions[name] = await stack.enter_async_context(session)
                self._channels[name] = await stack.enter_async_context(open_channel(gateway.grpc_address))
            tasks = [asyncio.create_task(self._keep_asking(name, ask)) for name, ask in clients]
            tasks += [asyncio.create_task(self._keep_rating()), asyncio.create_task(self._keep_writing())]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def pause(self) -> None:
        """Stops the load, and returns once no request is in progress."""
        self._running.clear()
        while self._in_flight:  # noqa: ASYNC110  # it ends with the slowest deadline
            await asyncio.sleep(0.05)

    def go_on(self) -> None:
        self._running.set()

    async def _keep_asking(self, protocol: str, ask: Callable[..., Awaitable[Answer]]) -> None:
        while True:
            if protocol == SCHEMA:
                await self.sends_schemas.wait()
            await self._rest()
            name = self._random.choice(list(self._world.gateways))
            key = self._world.spender if protocol == "spender" else self._world.keys[name]
            assert key is not None
            model, text = self._random.choice(self._models), self._random.choice(QUESTIONS)
            if protocol == SCHEMA or (protocol == "completions" and model == CLAUDE):
                model = "auto"  # schemas are checked for a task; Anthropic's dialect has no text completions
            record = Record(protocol, name, key.record.id, self._random.choice(DEADLINES))
            if model.endswith("@prod") and protocol not in ("route", "embeddings"):
                record.adapter = model.partition("@")[0]
            self._in_flight += 1
            try:
                record.model, record.text, record.decision, record.cost_usd = await ask(record, key, model, text)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                record.code = f"no answer: {type(error).__name__}"
            except grpc.aio.AioRpcError as error:
                record.code = from_rpc_error(error, "gateway").code or error.code().name
            except Refused as error:
                record.code = str(error)
            finally:
                self._in_flight -= 1
            if record.code == "unknown_route":
                return  # this version has no such endpoint
            record.ended = time.monotonic()
            self.records.append(record)

    async def _rest(self) -> None:
        await asyncio.sleep(self._random.expovariate(1 / self._pause))
        await self._running.wait()

    # -- OpenAI's and Anthropic's HTTP

    def _headers(self, record: Record, key: IssuedKey) -> dict[str, str]:
        return {"authorization": f"Bearer {key.credential.text}", "x-request-timeout": f"{record.deadline:g}"}

    @asynccontextmanager
    async def _post(
        self, record: Record, key: IssuedKey, path: str, body: dict[str, Any]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Sends a request and yields its response. Raises Refused."""
        timeout = aiohttp.ClientTimeout(total=record.deadline + CLIENT_PATIENCE_SECONDS)
        session = self._sessions[record.gateway]
        async with session.post(path, json=body, headers=self._headers(record, key), timeout=timeout) as response:
            if response.status != 200:
                error = (await response.json())["error"]
                raise Refused(error.get("code") or error.get("type") or str(response.status))
            record.decision = response.headers.get("x-pointsman-decision-id", "")
            yield response

    def _chat_body(self, model: str, text: str) -> dict[str, Any]:
        most = self._world.kind.answer_tokens
        return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": most}

    async def _chat(self, record: Record, key: IssuedKey, model: str, text: str) -> Answer:
        async with self._post(record, key, "/v1/chat/completions", self._chat_body(model, text)) as response:
            body = await response.json()
            content = body["choices"][0]["message"]["content"] or ""
            return body["model"], content, record.decision, body["pointsman"]["cost_usd"]

    async def _schema(self, record: Record, key: IssuedKey, model: str, text: str) -> Answer:
        """Sends a request that requires an answer in a hostile schema, to the task that has validators."""
        schema, _ = hostile_schema(self._random)
        wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        body = self._chat_body(model, text) | {"metadata": {"source": "inbox"}, "response_format": wanted}
        async with self._post(record, key, "/v1/chat/completions", body) as response:
            answer = await response.json()
            return (
                answer["model"],
                answer["choices"][0]["message"]["content"] or "",
                record.decision,
                answer["pointsman"]["cost_usd"],
            )

    async def _chat_stream(self, record: Record, key: IssuedKey, model: str, text: str) -> Answer:
        body = self._chat_body(model, text) | {"stream": True}
        content, by, cost, done = "", "", None, False
        async with self._post(record, key, "/v1/chat/completions", body) as response:
            async for event in self._events(response):
                done = done or event is None
                if event is None:
                    continue
                by = event.get("model", by)
                content += "".join(str(choice["delta"].get("content") or "") for choice in event.get("choices", ()))
                cost = (event.get("pointsman") or {}).get("cost_usd", cost)
        if not done:
            raise Refused("cut off")
        return by, content, record.decision, cost

    async def _responses(self, record: Record, key: IssuedKey, model: str, text: str) -> Answer:
        body = {"model": model, "input": text, "max_output_tokens": self._world.kind.answer_tokens}
        async with self._post(record, key, "/v1/responses", body) as response:
            answer = await response.json()
            parts = [part for item in answer["output"] for part in item.get("content", ())]
            return answer["model"], "".join(part.get("text", "") for part in parts), record.decision, None

    async def _responses_stream(self, record: Record, key: IssuedKey, model: str, text: str) -> Answer:
        body = {"model": model, "input": text, "max_output_tokens": self._world.kind.answer_tokens, "stream": True}
        content, by, done = "", "", False
        async with self._post(record, key, "/v1/responses", body) as response:
            async for event in self._events(response):
                kind = (event or {}).get("type", "")
                content += event["delta"] if event and kind == "response.output_text.delta" else ""
                by = event["response"]["model"] if event and "response" in event else by
                done = done or kind in ("response.completed", "response.incomplete")
                if event and kind == "response.failed":
                    raise Refused(event["response"]["error"]["code"])
        if not done:
            raise Refused("cut off")
        return by, content, record.decision, None

    async def _completions(self, record: Record, key: IssuedKey, model: str, text: str) -> Answer:
        prompt = AS_CHAT.format(text)
        body = {"model": model, "prompt": prompt, "max_tokens": self._world.kind.answer_tokens}
        async with self._post(record, key, "/v1/completions", body) as response:
            answer = await response.json()
            return answer["model"], answer["choices"][0]["text"], record.decision, None

    async def _messages(self, record: Record, key: IssuedKey, model: str, text: str) -> Answer:
        async with self._post(record, key, "/v1/messages", self._chat_body(model, text)) as response:
            answer = await response.json()
            return answer["model"], "".join(part.get("text", "") for part in answer["content"]), record.decision, None

    async def _embeddings(self, record: Record, key: IssuedKey, model: str, text: str) -> Answer:
        async with self._post(record, key, "/v1/embeddings", {"model": "minilm", "input": text}) as response:
            await response.json()
            return "", "", "", None

    async def _route(self, record: Record, key: IssuedKey, model: str, text: str) -> Answer:
        body = self._chat_body("path:handbook_answer", ABOUT_THE_DOCUMENT) | {"include_prompt": True}
        async with self._post(record, key, "/v1/route", body) as response:
            answer = await response.json()
            record.prompt = " ".join(message["content"] for message in answer["prompt"])
            return "", "", "", None

    async def _events(self, response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any] | None]:
        """Yields the data of each event of a stream, and None for [DONE]. Raises Refused for an error event."""
        async for line in response.content:
            data = line.strip().removeprefix(b"data: ")
            if not line.startswith(b"data: "):
                continue
            if data == b"[DONE]":
                yield None
                continue
            event = json.loads(data)
            if event.get("error"):
                raise Refused(event["error"].get("code") or "error")
            yield event

    # -- gRPC

    def _request(self, model: str, text: str) -> pb.GenerateRequest:
        sampling = pb.Sampling(max_tokens=self._world.kind.answer_tokens)
        return pb.GenerateRequest(model=model, messages=[pb.Message(role="user", content=text)], sampling=sampling)

    async def _grpc(self, record: Record, key: IssuedKey, model: str, text: str) -> Answer:
        stub = gateway_pb2_grpc.GatewayStub(self._channels[record.gateway])
        metadata = (("authorization", f"Bearer {key.credential.text}"),)
        answer = await stub.Generate(self._request(model, text), metadata=metadata, timeout=record.deadline)
        return answer.started.model, answer.choices[0].content, answer.started.decision.id, answer.receipt.cost_usd

    async def _grpc_stream(self, record: Record, key: IssuedKey, model: str, text: str) -> Answer:
        stub = gateway_pb2_grpc.GatewayStub(self._channels[record.gateway])
        metadata = (("authorization", f"Bearer {key.credential.text}"),)
        content, by, cost, done = "", "", None, False
        async for event in stub.GenerateStream(self._request(model, text), metadata=metadata, timeout=record.deadline):
            if event.HasField("started"):
                by, record.decision = event.started.model, event.started.decision.id
            elif event.HasField("delta"):
                content += event.delta.content
            elif event.HasField("finished"):
                cost, done = event.finished.receipt.cost_usd, True
        if not done:
            raise Refused("cut off")
        return by, content, record.decision, cost

    # -- feedback and documents

    async def _keep_rating(self) -> None:
        """Rates recent answers until it is cancelled."""
        while True:
            await self._rest()
            rated = set(self._truth.feedback)
            recent = [r for r in self.records[-60:] if r.ok and r.cost_usd and r.protocol.startswith("chat")]
            recent = [record for record in recent if record.decision not in rated]
            if not recent:
                continue
            record = self._random.choice(recent)
            body = {"decision_id": record.decision, "rating": self._random.choice((0.0, 0.5, 1.0))}
            headers = {"authorization": f"Bearer {self._world.keys[record.gateway].credential.text}"}
            with suppress(aiohttp.ClientError, OSError, TimeoutError):
                session, limit = self._sessions[record.gateway], aiohttp.ClientTimeout(total=30)
                async with session.post("/v1/feedback", json=body, headers=headers, timeout=limit) as response:
                    if response.status in (200, 202):
                        self._truth.feedback.append(record.decision)

    async def _keep_writing(self) -> None:
        """Adds documents to the retriever until it is cancelled."""
        number = 0
        while True:
            await self._rest()
            number += 1
            name = f"note-{number}"
            with suppress(grpc.aio.AioRpcError):
                await self._world.upsert((name, f"Note number {number} of the station master."))
                self._truth.notes.append(name)
