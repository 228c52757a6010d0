"""Malformed answers of engines in each dialect, for requests of each API."""

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import Any

from tests.fuzz import dialects
from tests.fuzz.mutations import change_bytes, change_json, in_pieces
from tests.fuzz.problems import Problem, problem_of
from tests.fuzz.rig import HttpCase, Rig
from tests.gateway.doubles.raw_engine import HEAD, LAST, OPEN_HEAD, End, Step, in_chunks

ENDLESS_BYTES = 4 << 20
"""Bytes after which an endless answer pauses for ever, because the fuzzer shares its machine."""
ERROR_STATUSES = (
    "400 Bad Request",
    "401 Unauthorized",
    "404 Not Found",
    "422 X",
    "429 Busy",
    "500 X",
    "503 X",
    "529 X",
    "302 Found",
    "204 No Content",
    "700 X",
)
ERROR_BODIES: Sequence[Any] = (
    dialects.ERROR,
    {"error": "text"},
    {"error": 5},
    {"error": {"message": 5}},
    {"error": {"message": ["a"], "code": {}}},
    [],
    "",
    None,
    {"detail": [{"msg": "x"}]},
    [{"error": {"message": "a"}}],
    {"message": {"detail": []}},
    {"error": None},
    {"error": {"message": "sk-" + "a" * 40}},
)
HEADS = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n",
    OPEN_HEAD,
    OPEN_HEAD,
    b"HTTP/1.0 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 999999\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"\r\n",
    b"HTTP/1.1 200\r\n\r\n",
    b"ICY 200 OK\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nx: " + b"a" * 70_000 + b"\r\n\r\n",
)
DEEP = "deep"
"""A placeholder for lists that are nested too deeply to be encoded recursively."""
TEXT = "Hello, how are you today?"
CALLED_ONCE = {"/v1/embeddings": dialects.EMBEDDINGS, "/v1/rerank": dialects.RERANKING}
"""A valid answer of an engine to each request that is not streamed."""
Client = tuple[str, dict[str, Any]]


def clients(marker: str, is_stream: bool) -> list[Client]:
    """Returns the requests of each API, which contain the marker."""
    text = f"{TEXT} {marker}"
    chat = {"messages": [{"role": "user", "content": text}], "max_tokens": 9, "stream": is_stream}
    return [
        ("/v1/chat/completions", {"model": "scripted", **chat}),
        ("/v1/chat/completions", {"model": "scripted", "n": 2, "logprobs": True, **chat}),
        ("/v1/chat/completions", {"model": "claude", **chat}),
        ("/v1/messages", {"model": "scripted", **chat}),
        ("/v1/messages", {"model": "claude", **chat}),
        ("/v1/responses", {"model": "scripted", "input": text, "stream": is_stream}),
        ("/v1/responses", {"model": "claude", "input": text, "stream": is_stream}),
        ("/v1/completions", {"model": "scripted", "prompt": text, "max_tokens": 9, "stream": is_stream}),
        ("/v1/embeddings", {"model": "remote", "input": [text, "there"]}),
        ("/v1/rerank", {"model": "reranker", "query": text, "documents": ["one", "two"]}),
    ]


class EngineAnswers:
    name, share, lanes = "engine_answers", 0.25, 16

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def make(self, random: Random, marker: str) -> HttpCase:
        steps: tuple[Step, ...] | Callable[[], Iterable[Step]]
        path, body = random.choice(clients(marker, random.random() < 0.5))
        if path in CALLED_ONCE:
            steps = self._one_answer(random, CALLED_ONCE[path])
        else:
            is_claude = body["model"] == "claude"
            valid = dialects.MESSAGES if is_claude else dialects.COMPLETION if "prompt" in body else dialects.CHAT
            steps = self._stream(random, valid, is_claude)
        return HttpCase("POST", path, body=json.dumps(body).encode(), marker=marker, steps=steps)

    def _one_answer(self, random: Random, valid: Any) -> tuple[Step, ...]:
        if random.random() < 0.2:
            return self._error(random)
        answer = change_json(random, valid)
        if isinstance(answer, dict) and random.random() < 0.4:
            answer["usage"] = random.choice(
                (
                    {"total_tokens": -5_000_000},
                    {"total_tokens": 10**12},
                    {"total_tokens": True},
                    DEEP,
                    {"total_tokens": "7"},
                )
            )
        body = json.dumps(answer).encode().replace(json.dumps(DEEP).encode(), b"[" * 2000 + b"]" * 2000)
        body = change_bytes(random, body) if random.random() < 0.3 else body
        return (dialects.json_answer(body),) if random.random() < 0.8 else (random.choice(HEADS), body, End.CLOSED)

    def _stream(
        self, random: Random, valid: Sequence[Any], is_claude: bool
    ) -> tuple[Step, ...] | Callable[[], Iterable[Step]]:
        kind = random.random()
        if kind < 0.1:
            return self._error(random)
        events = self._events(random, valid)
        write = dialects.named if is_claude else dialects.streamed
        data = write(events)
        if kind < 0.25:
            data = change_bytes(random, data)
        if kind > 0.97:
            one = write([random.choice(valid)])
            return lambda: endless(one)
        if kind > 0.95:
            return (HEAD, in_chunks([data[: len(data) // 2]]), asyncio.Event())  # silence
        pieces = in_pieces(random, data)
        if kind > 0.85:
            head = random.choice(HEADS)
            return (head % len(data) if b"%d" in head else head, *pieces, random.choice((End.CLOSED, End.RESET)))
        last: tuple[Step, ...] = (
            (LAST,) if random.random() < 0.9 else (random.choice((End.CLOSED, End.RESET, LAST[:3], b"zz\r\n")),)
        )
        return (HEAD, *(in_chunks([piece]) for piece in pieces), *last)

    def _events(self, random: Random, valid: Sequence[Any]) -> list[Any]:
        """Returns the events with one or two of them changed, and perhaps an error among them."""
        events = list(valid)
        for _ in range(random.choice((0, 1, 1, 2))):
            place = random.randrange(len(events))
            events[place] = change_json(random, events[place], most=2)
        if random.random() < 0.2:
            error = (
                change_json(random, dialects.ERROR, most=2) if random.random() < 0.7 else {"type": "error", "error": 5}
            )
            events.insert(random.randint(0, len(events)), error)
        if random.random() < 0.1:
            events = events[: random.randint(0, len(events))]
        if random.random() < 0.1:
            random.shuffle(events)
        return events

    def _error(self, random: Random) -> tuple[Step, ...]:
        body = json.dumps(random.choice(ERROR_BODIES)).encode()
        body = change_bytes(random, body) if random.random() < 0.3 else body
        return (dialects.json_answer(body, random.choice(ERROR_STATUSES)),)

    async def carry_out(self, case: HttpCase) -> Problem | None:
        return problem_of(f"{case.path} from a malformed answer", await self._rig.ask(case), may_fail=True)


def endless(one: bytes) -> Iterator[Step]:
    """Yields an answer that never ends: many bytes, and then silence."""
    yield HEAD
    chunk = in_chunks([one * 16])
    for _ in range(ENDLESS_BYTES // len(chunk)):
        yield chunk
    yield asyncio.Event()
