"""A scripted OpenAI-compatible engine, which is a real HTTP server."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web


@dataclass(frozen=True)
class Refusal:
    """An HTTP error that is sent instead of a stream."""

    status: int
    body: Any


class Break:
    """Aborts the connection."""


BREAK = Break()
DONE = b"data: [DONE]\n\n"

Step = dict[str, Any] | bytes | asyncio.Event | Break
"""An event or raw bytes to send, something to wait for, or the end of the connection."""

Embedding = Callable[[Mapping[str, Any]], "Refusal | bytes | asyncio.Event | Break"]

Script = Callable[[Mapping[str, Any]], Refusal | Sequence[Step]]


class ScriptedEngine:
    """An engine that stores the requests it gets, and counts those in progress."""

    def __init__(self) -> None:
        self.script: Script = lambda body: answer("Hello", " there")
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.paths: list[str] = []
        self.connections: set[Any] = set()
        """The remote addresses of chat requests."""
        self.drops_next = False
        """Whether the engine closes the connection of the next chat request, like one that was idle too long."""
        self.running = 0
        self.sent = 0
        """Number of events sent since the last request arrived."""
        self.url = ""
        self.adapters: set[str] | None = None
        """The adapter versions that the engine holds; None means that it accepts every version."""
        self.embeds: Embedding = lambda body: embedded(body)
        self.reranks: Embedding = lambda body: reranked(body)
        self.lists: Callable[[], web.StreamResponse] = lambda: model_list("tiny")
        """Makes the answer to GET /v1/models."""
        self.listed = 0
        """How often the list of models was requested."""
        self.list_headers: Mapping[str, str] = {}
        """Headers of the last request for the list of models."""
        self.tokenizes: Callable[[Mapping[str, Any]], web.StreamResponse] = counted_words
        """Makes the answer to a request to /tokenize."""
        self.listing = 0
        self.most_listing = 0
        """The largest number of simultaneous requests for the list of models; `listing` is the present one."""

    def says(self, *steps: Step) -> None:
        self.script = lambda body: steps

    def refuses(self, status: int, body: Any) -> None:
        self.script = lambda asked: Refusal(status, body)

    @property
    def system(self) -> str:
        """Returns the text of the system message in the last request to this engine; empty if it has none."""
        first = self.bodies[-1]["messages"][0]
        return first["content"] if first["role"] == "system" else ""

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.paths.append(request.path)
        assert request.transport is not None
        self.connections.add(request.transport.get_extra_info("peername"))
        if self.drops_next:
            self.drops_next = False
            request.transport.abort()
            return web.Response()
        model = body["model"]
        unknown = self.adapters is not None and "@" in model and model not in self.adapters
        script = no_such_model(model) if unknown else self.script(body)
        if isinstance(script, Refusal):
            return web.Response(status=script.status, text=json.dumps(script.body), content_type="application/json")
        self.running += 1
        self.sent = 0
        try:
            return await self._stream(request, script)
        finally:
            self.running -= 1

    async def models(self, request: web.Request) -> web.StreamResponse:
        self.listed += 1
        self.list_headers = {name.lower(): value for name, value in request.headers.items()}
        self.listing += 1
        self.most_listing = max(self.most_listing, self.listing)
        try:
            await asyncio.sleep(0)
            return self.lists()
        finally:
            self.listing -= 1

    async def tokenize(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.paths.append(request.path)
        return self.tokenizes(body)

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        return await self._answer_once(request, self.embeds, embedded)

    async def rerank(self, request: web.Request) -> web.StreamResponse:
        return await self._answer_once(request, self.reranks, reranked)

    async def _answer_once(
        self, request: web.Request, answer: Embedding, usual: Callable[[Mapping[str, Any]], bytes]
    ) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.paths.append(request.path)
        self.running += 1
        try:
            answered = answer(body)
            if isinstance(answered, asyncio.Event):
                await answered.wait()
                answered = usual(body)
            if isinstance(answered, bytes):
                return web.Response(body=answered, content_type="application/json")
            if isinstance(answered, Break):
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            return web.Response(status=answered.status, text=json.dumps(answered.body), content_type="application/json")
        finally:
            self.running -= 1

    async def _stream(self, request: web.Request, script: Sequence[Step]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for step in script:
            match step:
                case asyncio.Event():
                    await step.wait()
                case Break():
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                case bytes():
                    await response.write(step)
                case _:
                    await response.write(b"data: " + json.dumps(step).encode() + b"\n\n")
                    self.sent += 1
        return response


@asynccontextmanager
async def running_engine() -> AsyncIterator[ScriptedEngine]:
    engine = ScriptedEngine()
    app = web.Application(client_max_size=16 * 1024 * 1024)
    app.router.add_post("/v1/chat/completions", engine.chat)
    app.router.add_post("/v1/completions", engine.chat)
    app.router.add_post("/v1/embeddings", engine.embeddings)
    app.router.add_post("/v1/rerank", engine.rerank)
    app.router.add_post("/v2/rerank", engine.rerank)
    app.router.add_get("/v1/models", engine.models)
    app.router.add_post("/tokenize", engine.tokenize)
    # handler_cancellation: like vLLM, it stops working if the client disconnects.
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    engine.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield engine
    finally:
        await runner.cleanup()


def model_card(name: str, root: str, parent: str | None = None) -> dict[str, Any]:
    """Returns one entry of vLLM's list of models, with all fields of vLLM 0.32."""
    card = {"id": name, "object": "model", "created": 1764320000, "owned_by": "vllm", "root": root, "parent": parent}
    permission = {"id": "modelperm-b0", "object": "model_permission", "organization": "*", "group": None}
    return {**card, "max_model_len": None if parent else 4096, "permission": [permission]}


def model_list(base: str, loras: Mapping[str, str] | None = None, root: str = "/models/base") -> web.Response:
    """Returns vLLM's list of a base model and its adapters; `loras` maps the adapters' names to their folders."""
    cards = [model_card(base, root), *(model_card(name, at, base) for name, at in (loras or {}).items())]
    return web.json_response({"object": "list", "data": cards})


def chunk(content: str | None = None, *, index: int = 0, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """Returns one event of a stream; `more` is added to the delta, except for `logprobs`, which belongs to the
    choice.
    """
    beside = {"logprobs": more.pop("logprobs")} if "logprobs" in more else {}
    delta = {**({} if content is None else {"content": content}), **more}
    return {"choices": [{"index": index, "delta": delta, "finish_reason": finish, **beside}]}


def usage(prompt_tokens: int = 20, completion_tokens: int = 2, cached_tokens: int = 0) -> dict[str, Any]:
    counted = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return {"choices": [], "usage": {**counted, "prompt_tokens_details": {"cached_tokens": cached_tokens}}}


def beginning(*pieces: str) -> list[Step]:
    """Returns the start of vLLM's stream: the role, then one event per piece."""
    return [chunk("", role="assistant"), *(chunk(piece) for piece in pieces)]


def answer(*pieces: str, finish: str = "stop", prompt_tokens: int = 20, cached_tokens: int = 0) -> list[Step]:
    """Returns a complete stream as vLLM sends it, with one token per event."""
    return [*beginning(*pieces), chunk("", finish=finish), usage(prompt_tokens, len(pieces), cached_tokens), DONE]


def text_chunk(text: str, *, index: int = 0, finish: str | None = None, logprobs: Any = None) -> dict[str, Any]:
    """Returns one event of a completion stream."""
    return {"choices": [{"index": index, "text": text, "finish_reason": finish, "logprobs": logprobs}]}


def text_answer(*pieces: str, finish: str = "stop", prompt_tokens: int = 20) -> list[Step]:
    """Returns a complete completion stream as vLLM sends it."""
    *first, last = pieces
    seen = [*(text_chunk(piece) for piece in first), text_chunk(last, finish=finish)]
    return [*seen, usage(prompt_tokens, len(pieces)), DONE]


def embedded(body: Mapping[str, Any]) -> bytes:
    """Returns embeddings of three numbers per text: its length, twice the length, and 0.5."""
    given = body["input"]
    texts = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    data = [
        {"object": "embedding", "index": index, "embedding": [len(text), 2 * len(text), 0.5]}
        for index, text in enumerate(texts)
    ]
    counted = {"prompt_tokens": 7 * len(texts), "total_tokens": 7 * len(texts)}
    return json.dumps({"object": "list", "data": data, "model": body["model"], "usage": counted}).encode()


def reranked(body: Mapping[str, Any]) -> bytes:
    """Returns vLLM's answer to /v1/rerank: the longest document is the best, and each has seven tokens."""
    documents = body["documents"]
    order = sorted(range(len(documents)), key=lambda number: -len(documents[number]))
    results = [
        {"index": number, "document": {"text": documents[number]}, "relevance_score": len(documents[number]) / 1000}
        for number in order
    ]
    usage = {"prompt_tokens": 7 * len(documents), "total_tokens": 7 * len(documents)}
    return json.dumps({"id": "score-1", "model": body["model"], "usage": usage, "results": results}).encode()


def counted_words(body: Mapping[str, Any]) -> web.Response:
    """Returns vLLM's answer to /tokenize, with a token for each word of the messages."""
    words = " ".join([message["content"] for message in body["messages"]]).split()
    return web.json_response({"count": len(words), "max_model_len": 4096, "tokens": list(range(len(words)))})


def no_such_model(model: str) -> Refusal:
    """Returns vLLM's error for an unknown model."""
    message = f"The model `{model}` does not exist. Valid aliases: tiny."
    return Refusal(404, {"error": {"message": message, "type": "NotFoundError", "param": "model", "code": 404}})


TOO_LONG = {
    "error": {
        "message": "This model's maximum context length is 4096 tokens. However, your request has 5000 input tokens.",
        "type": "BadRequestError",
        "param": "input_tokens",
        "code": 400,
    }
}
"""vLLM's error for a prompt that is too long."""
