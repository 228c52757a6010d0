"""The stage: the prompt goes to an engine that can answer, to the next one if that fails before its first token."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from pointsman_servicekit.errors import DeadlineExceeded, Unavailable

from pointsman_gateway.backends.engines import Engines, Target
from pointsman_gateway.domain import Chunks, Decision, Message, Path, Prompt, Request, Sampling


@dataclass(frozen=True, slots=True)
class Call:
    """What one engine is asked."""

    engine: str
    url: str
    model: str
    """As the engine knows it: the served base model or an adapter version."""
    messages: Sequence[Message]
    sampling: Sampling
    deadline: float
    api_key: str = ""


class Client(Protocol):
    """Streams one answer from one engine."""

    def stream(self, call: Call) -> AsyncIterator[Chunks]: ...


@dataclass(frozen=True, slots=True)
class Opened:
    """An answer that has begun: its first chunk is there."""

    model: str
    chunks: AsyncIterator[Chunks]
    cached: str = ""
    """How it was found in the cache; empty where an engine answers."""


class Backends:
    """Prompt in, chunks out."""

    def __init__(self, engines: Engines, client: Client, clock: Callable[[], float]) -> None:
        self._engines = engines
        self._client = client
        self._clock = clock

    async def open(self, request: Request, decision: Decision, prompt: Prompt) -> Opened:
        """Waits for the first chunk. Raises Unavailable once every engine has failed, and what the engines refuse."""
        path, failed = decision.path, None
        for target in self._engines.targets(path):
            if self._clock() >= request.deadline:
                raise DeadlineExceeded("the request's time ran out", code="deadline_exceeded")
            stream = self._client.stream(_call(target, request, path, prompt))
            try:
                first = await anext(stream)
            except Unavailable as error:
                failed = error
                continue
            except StopAsyncIteration:
                failed = Unavailable(
                    f"engine '{target.engine.name}' answered nothing", code="engine_unavailable", retry_after=1.0
                )
                continue
            except asyncio.CancelledError:
                await stream.aclose()  # type: ignore[attr-defined]  # a generator's
                raise
            return Opened(target.model, _from(first, stream))
        assert failed is not None  # targets() is never empty
        raise failed


def _call(target: Target, request: Request, path: Path, prompt: Prompt) -> Call:
    return Call(
        engine=target.engine.name,
        url=target.engine.url,
        model=target.model,
        messages=prompt.messages,
        sampling=request.sampling.over(path.sampling),
        deadline=request.deadline,
        api_key=target.engine.api_key,
    )


async def _from(first: Chunks, rest: AsyncIterator[Chunks]) -> AsyncIterator[Chunks]:
    async with aclosing(rest):  # type: ignore[type-var]  # a generator's
        yield first
        async for chunks in rest:
            yield chunks
