"""A cache in a real Valkey, in front of a scripted engine."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from pointsman_gateway.cache.keys import CacheKeyBuilder
from pointsman_gateway.cache.stage import AnswerWriter, CacheMetrics, CacheResources, CachingBackend, IsStorable
from pointsman_gateway.cache.store import MAX_TENANT_BYTES, CacheStore
from pointsman_gateway.config.paths_file import CacheConfig
from pointsman_gateway.domain import (
    Caller,
    Chunk,
    Chunks,
    Decision,
    Message,
    Passage,
    Path,
    Prompt,
    Request,
    Sampling,
    Usage,
    Vector,
)
from pointsman_gateway.metering.meter import NO_ATTEMPT
from pointsman_gateway.ports import AnswerStream, CallRecord, ChunkSink
from pointsman_servicekit.bounded_redis import open_redis
from prometheus_client import CollectorRegistry

from tests.gateway.doubles.clients import chunks_of
from tests.gateway.doubles.waiting import until

GREEDY = Sampling(temperature=0)
PATH = Path("handbook", "tiny", sampling=GREEDY, collections=("handbook",), fingerprint="f1")
PASSAGE = Passage("bikes.md", "Bikes", "They ride free.", 0.9, start=10)


def steps_of(*pieces: str, finish: str = "stop") -> list[Chunks]:
    return [
        *((Chunk(content=piece),) for piece in pieces),
        (Chunk(finish_reason=finish),),
        (Chunk(usage=Usage(20, len(pieces), 4)),),
    ]


def unit(*values: float) -> Vector:
    vector = np.zeros(384, np.float32)
    vector[: len(values)] = values
    return vector / np.linalg.norm(vector)


@dataclass
class Engine:
    """Implements `Backend`: gives scripted answers, and counts its calls."""

    says: Sequence[Chunks] = field(default_factory=lambda: steps_of("They ", "ride free."))
    model: str = "tiny"
    times: int = 0
    closed: int = 0
    error: Exception | None = None
    """The error with which the answer ends after its last step, if any."""

    async def call(self, request: Request, decision: Decision, prompt: Prompt, record: CallRecord) -> AnswerStream:
        self.times += 1
        return AnswerStream(self.model, _Saying(self))


class _Saying:
    """Implements `AnswerSource`: pushes one step per turn of the event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._steps = iter(engine.says)
        self._sink: ChunkSink | None = None

    def attach(self, sink: ChunkSink) -> None:
        self._sink = sink
        self._push()

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None:
        self._sink = None
        self._engine.closed += 1

    def _push(self) -> None:
        if self._sink is None:
            return
        step = next(self._steps, None)
        if step is None:
            self._sink.ended(self._engine.error)
        else:
            self._sink.chunks(step, False)
            asyncio.get_running_loop().call_soon(self._push)


@dataclass(frozen=True)
class Question:
    """A question to a cached path, from which `ask` builds the request, its decision and its prompt."""

    text: str = "May my bike ride?"
    tenant: str = "north"
    path: Path = PATH
    vector: Vector | None = None
    sampling: Sampling = field(default_factory=Sampling)
    before: tuple[Message, ...] = ()
    after: tuple[Message, ...] = ()
    beside: Mapping[str, Any] = field(default_factory=dict)
    """Additional fields of the question's message."""
    user: str = ""
    versions: tuple[tuple[str, int], ...] = (("handbook", 7),)
    passages: tuple[Passage, ...] = (PASSAGE,)
    wish: str = "use"

    def request(self) -> Request:
        messages = (*self.before, Message("user", self.text, self.beside), *self.after)
        caller = Caller(tenant=self.tenant)
        return Request("auto", messages, self.sampling, user=self.user, caller=caller, cache=self.wish)

    def decision(self) -> Decision:
        return Decision("d1", "policy", 0.9, self.path, "policy:fixed", "encoder", (), (), vector=self.vector)

    def prompt(self) -> Prompt:
        shown = "\n".join(passage.text for passage in self.passages)
        messages = (Message("system", f"Answer from:\n{shown}"), *self.request().messages)
        return Prompt(messages, self.passages, len(self.versions), {}, self.versions)


@dataclass
class Gave:
    text: str
    steps: list[Chunks]
    cached: str
    model: str


class CacheHarness:
    """The cache of one gateway with its dependencies, without the gateway."""

    def __init__(self, engine: Engine, cache: CacheResources, registry: CollectorRegistry) -> None:
        self.engine = engine
        self.cache = cache
        self.versions: dict[str, str] = {}
        self._registry = registry

    def caching(self, config: CacheConfig, path: Path = PATH, embed: Any = None) -> CachingBackend:
        asking = {path.name: CacheKeyBuilder(path, config, "encoder-1")}
        return CachingBackend(self.engine, self.cache, asking, lambda path: self.versions.get(path.adapter, ""), embed)

    async def ask(self, config: CacheConfig, question: Question, *, accept: bool = True, embed: Any = None) -> Gave:
        """Asks the question, and returns the whole answer. If the answer may be cached and `accept` is set, it is
        stored first.
        """
        caching = self.caching(config, question.path, embed)
        answer = await caching.call(question.request(), question.decision(), question.prompt(), NO_ATTEMPT)
        steps = [chunks async for chunks in chunks_of(answer.source)]
        if accept and answer.accepted is not None:
            answer.accepted()
            await until(lambda: not self.cache.writer.in_progress)
        text = "".join(chunk.content for chunks in steps for chunk in chunks)
        return Gave(text, steps, answer.cached, answer.model)

    def count(self, name: str, **labels: str) -> float:
        return sum(
            sample.value
            for family in self._registry.collect()
            for sample in family.samples
            if sample.name == f"pointsman_cache_{name}_total" and labels.items() <= sample.labels.items()
        )

    def outcomes(self, name: str) -> Mapping[str, float]:
        return {
            sample.labels["outcome"]: sample.value
            for family in self._registry.collect()
            for sample in family.samples
            if sample.name == f"pointsman_cache_{name}_total"
        }


@asynccontextmanager
async def run_cache(
    url: str, *, most_bytes: int = MAX_TENANT_BYTES, deadline: float = 2.0, storable: IsStorable = lambda text: True
) -> AsyncIterator[CacheHarness]:
    """Yields a cache. `deadline` is the time limit of calls to Redis in seconds, long by default because the machine
    may be busy.
    """
    registry = CollectorRegistry()
    metrics = CacheMetrics(registry)
    async with open_redis(url, metrics.set_redis_up, deadline) as redis:
        store = CacheStore(redis, most_bytes)
        async with AnswerWriter(store, metrics, storable) as keeper:
            yield CacheHarness(Engine(), CacheResources(store, keeper, metrics), registry)


def another(question: Question, **fields: Any) -> Question:
    return replace(question, **fields)
