"""The caching backend: reuses a stored answer, or calls another backend and stores the new answer afterwards."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from pointsman_servicekit.errors import Unavailable
from prometheus_client import CollectorRegistry, Counter, Gauge

from pointsman_gateway.cache.keys import CacheKeyBuilder, CacheKeys
from pointsman_gateway.cache.recording import CacheableAnswer, Recording, Replay, StoredAnswer, parse_answer
from pointsman_gateway.cache.store import CacheStore, SimilarQuestions
from pointsman_gateway.domain import Decision, Path, Prompt, Request, Vector
from pointsman_gateway.extensions import Embed
from pointsman_gateway.ports import AnswerStream, Backend, CallRecord

log = logging.getLogger(__name__)

MAX_CONCURRENT_WRITES = 64
"""Maximum number of answers that are written to the cache at a time. Further answers are not stored."""

SHUTDOWN_TIMEOUT_SECONDS = 1.0
"""Seconds for which a stopping gateway waits for cache writes in progress."""

IsStorable = Callable[[str], bool]


class CacheMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.lookups = Counter(
            "pointsman_cache_lookups",
            "Requests on paths that cache, by outcome: exact, semantic, miss, unfit, renewed or away.",
            ["path", "outcome"],
            registry=registry,
        )
        self.answers = Counter(
            "pointsman_cache_answers",
            "Complete answers on paths that cache, by outcome: kept, unfit, busy or away.",
            ["path", "outcome"],
            registry=registry,
        )
        self.redis_up = Gauge("pointsman_cache_redis_up", "1 if the cache's Redis answers in time.", registry=registry)
        self.redis_up.set(1)

    def set_redis_up(self, up: bool) -> None:
        self.redis_up.set(up)


class AnswerWriter:
    """Writes answers to the cache in background tasks, so that requests do not wait for Redis.

    At most `MAX_CONCURRENT_WRITES` answers are written at a time; further answers are not stored. It is an async
    context manager. At its end, it waits up to `SHUTDOWN_TIMEOUT_SECONDS` for writes in progress, and cancels those
    that are not complete by then.
    """

    def __init__(self, store: CacheStore, metrics: CacheMetrics, storable: IsStorable = lambda text: True) -> None:
        """Takes the function `storable`, which gets an answer's text and returns whether the answer may be stored."""
        self._store = store
        self._metrics = metrics
        self._storable = storable
        self._writes: set[asyncio.Task[None]] = set()

    @property
    def in_progress(self) -> int:
        return len(self._writes)

    def write(self, keys: CacheKeys, answer: CacheableAnswer, ttl_seconds: int, vector: Vector | None) -> None:
        if len(self._writes) >= MAX_CONCURRENT_WRITES:
            self._metrics.answers.labels(keys.path, "busy").inc()
            return
        task = asyncio.create_task(self._write(keys, answer, ttl_seconds, vector), name="store an answer")
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def _write(self, keys: CacheKeys, answer: CacheableAnswer, ttl_seconds: int, vector: Vector | None) -> None:
        try:
            if self._storable(answer.text):
                await self._store.write(keys, answer.json, ttl_seconds, vector)
                outcome = "kept"
            else:
                outcome = "unfit"
        except Unavailable:
            outcome = "away"
        except Exception:
            log.exception("an answer on path %s cannot be stored", keys.path)
            outcome = "unfit"
        self._metrics.answers.labels(keys.path, outcome).inc()

    async def __aenter__(self) -> "AnswerWriter":
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._writes:
            _, late = await asyncio.wait(self._writes, timeout=SHUTDOWN_TIMEOUT_SECONDS)
            for task in late:
                task.cancel()


@dataclass(frozen=True, slots=True)
class CacheResources:
    """The objects of the answer cache that stay in use when the configuration is reloaded: the store in Redis, the
    writer, the metrics, and the copies of questions.
    """

    store: CacheStore
    writer: AnswerWriter
    metrics: CacheMetrics
    similar: SimilarQuestions = field(default_factory=SimilarQuestions)


class CachingBackend:
    """A backend that answers from the cache if possible, and otherwise calls the wrapped backend, which calls engines.
    Implements `Backend`.

    If Redis does not answer in time, or the question cannot be embedded, the wrapped backend answers.
    """

    def __init__(
        self,
        inner: Backend,
        cache: CacheResources,
        keys: Mapping[str, CacheKeyBuilder],
        version_of: Callable[[Path], str],
        embed: Embed | None = None,
    ) -> None:
        """Takes the wrapped backend `inner`. `keys` are the key builders by name of the path; requests for a path
        without a key builder always go to `inner`. `version_of` returns a path's adapter version.

        `embed` embeds questions that neither the classifier nor a prompt strategy has embedded. If it is None, such
        questions are not compared by similarity.
        """
        self._inner = inner
        self._cache = cache
        self._keys = keys
        self._version_of = version_of
        self._embed = embed

    async def call(self, request: Request, decision: Decision, prompt: Prompt, record: CallRecord) -> AnswerStream:
        """Returns the answer from the cache or, if the cache has none, from the wrapped backend; raises only the
        wrapped backend's errors.

        An answer of the wrapped backend is stored in the background after the caller has called the answer's
        `accepted`. It is not stored if the cache is not used for the request (`CacheKeyBuilder.keys_for`), if the
        answer is incomplete (`Recording.complete`) or comes from another model than expected, or if the writer rejects
        it.
        """
        path = decision.path
        builder = self._keys.get(path.name)
        if builder is None:
            return await self._inner.call(request, decision, prompt, record)
        keys = builder.keys_for(request, prompt, self._version_of(path) if path.adapter else path.model)
        if keys is None:
            self._count(path.name, "unfit")
            return await self._inner.call(request, decision, prompt, record)
        vector = decision.vector if decision.vector is not None else prompt.vector
        lookup = _Lookup(self._cache, keys, builder.config.similarity_threshold or 1.0, vector, self._embed)
        found = None if keys.is_renewal else await self._find(lookup)
        if keys.is_renewal:
            self._count(path.name, "renewed")
        if found is not None:
            return AnswerStream(found.model, Replay(found), lookup.outcome, embeddings=lookup.embeddings)
        answer = await self._inner.call(replace(request, keeps_pieces=True), decision, prompt, record)
        if lookup.embeddings:
            answer = replace(answer, embeddings=lookup.embeddings)
        return self._record(answer, builder, lookup)

    async def _find(self, lookup: "_Lookup") -> StoredAnswer | None:
        try:
            found = await lookup.run()
        except Unavailable:
            lookup.outcome, found = "away", None
        self._count(lookup.keys.path, lookup.outcome)
        return found

    def _record(self, answer: AnswerStream, builder: CacheKeyBuilder, lookup: "_Lookup") -> AnswerStream:
        keys = lookup.keys
        if answer.model != keys.model:  # the alias was moved during the lookup
            return answer
        recording = Recording(answer.model, answer.source)

        def accepted() -> None:
            stored = recording.complete
            if stored is None:
                self._cache.metrics.answers.labels(keys.path, "unfit").inc()
            else:
                self._cache.writer.write(keys, stored, builder.config.ttl_seconds, lookup.vector)

        return replace(answer, source=recording, accepted=accepted)

    def _count(self, path: str, outcome: str) -> None:
        self._cache.metrics.lookups.labels(path, outcome).inc()


class _Lookup:
    """One search of the cache for an answer: first by the request's exact key, then by the question's similarity."""

    def __init__(
        self, cache: CacheResources, keys: CacheKeys, threshold: float, vector: Vector | None, embed: Embed | None
    ) -> None:
        self.keys = keys
        self.outcome = "miss"
        self.vector = vector if keys.partition else None
        """The question's embedding; None if it is not needed, or not known yet."""
        self.embeddings = 0
        """Number of texts that the lookup has embedded."""
        self._cache = cache
        self._threshold = threshold
        self._embed = embed

    async def run(self) -> StoredAnswer | None:
        """Returns the answer from the cache, by the exact key or by the question's similarity; None if there is none.

        Raises Unavailable if Redis or the embedding fails.
        """
        keys, similar = self.keys, self._cache.similar
        found = await self._cache.store.look_up(keys, similar.last_id(keys.partition))
        answer = parse_answer(found.answer) if found.answer is not None else None
        if answer is not None:
            self.outcome = "exact"
            return answer
        if not keys.partition:
            return None
        similar.update(keys.partition, found.questions)
        return await self._find_similar()

    async def _find_similar(self) -> StoredAnswer | None:
        if self.vector is None and self._embed is not None:
            self.vector = await self._embed.embed(self.keys.question)
            self.embeddings = 1
        if self.vector is None:
            return None
        partition, similar = self.keys.partition, self._cache.similar
        key = similar.nearest(partition, self.vector, self._threshold)
        if not key:
            return None
        text = await self._cache.store.read(self.keys.tenant, key)
        answer = parse_answer(text) if text is not None else None
        if answer is None:
            similar.remove(partition, key)
            return None
        self.outcome = "semantic"
        return answer
