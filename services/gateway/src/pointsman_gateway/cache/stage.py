"""The wrapper: an answer that was given before to the same is given again, else an engine makes one, and it is kept."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from pointsman_servicekit.errors import Unavailable

from pointsman_gateway.cache.asked import Asked, Asking
from pointsman_gateway.cache.keeper import Keeper
from pointsman_gateway.cache.metrics import CacheMetrics
from pointsman_gateway.cache.neighbours import Neighbours
from pointsman_gateway.cache.recording import Recorded, Recording, Replay, read
from pointsman_gateway.cache.store import CacheStore
from pointsman_gateway.domain import Decision, Path, Prompt, Request, Vector
from pointsman_gateway.pipeline.ports import Backend, OpenAnswer

log = logging.getLogger(__name__)


class Embed(Protocol):
    """Embeds a question whose task was decided without its vector."""

    async def embed(self, text: str) -> Vector: ...


@dataclass(frozen=True, slots=True)
class Cache:
    """What stays while generations come and go."""

    store: CacheStore
    keeper: Keeper
    metrics: CacheMetrics
    embedding: str
    """The name of the model that makes the vectors."""
    neighbours: Neighbours = field(default_factory=Neighbours)


class Caching:
    """Implements `Backend` around another. Where Redis is away or slow it is as if there were no cache."""

    def __init__(
        self,
        inner: Backend,
        cache: Cache,
        asking: Mapping[str, Asking],
        version_of: Callable[[Path], str],
        embed: Embed | None = None,
    ) -> None:
        """`asking` by path: those that cache. `version_of` names the adapter's version that would answer now.

        Without `embed` a question is only compared where its decision has a vector.
        """
        self._inner = inner
        self._cache = cache
        self._asking = asking
        self._version_of = version_of
        self._embed = embed

    async def open(self, request: Request, decision: Decision, prompt: Prompt) -> OpenAnswer:
        """Raises what the inner one raises."""
        path = decision.path
        asking = self._asking.get(path.name)
        if asking is None:
            return await self._inner.open(request, decision, prompt)
        asked = asking.asked(request, prompt, self._version_of(path) if path.adapter else path.model)
        if asked is None:
            self._count(path.name, "unfit")
            return await self._inner.open(request, decision, prompt)
        vector = decision.vector if decision.vector is not None else prompt.vector
        search = _Search(self._cache, asked, asking.config.semantic or 1.0, vector, self._embed)
        found = None if asked.renews else await self._found(search)
        if asked.renews:
            self._count(path.name, "renewed")
        if found is not None:
            return OpenAnswer(found.model, Replay(found), search.outcome, embeddings=search.embeddings)
        opened = await self._inner.open(
            replace(request, as_a_whole=False), decision, prompt
        )  # it may be replayed as a stream
        if search.embeddings:
            opened = replace(opened, embeddings=search.embeddings)
        return self._kept(opened, asking, search)

    async def _found(self, search: "_Search") -> Recorded | None:
        try:
            found = await search.run()
        except Unavailable:
            search.outcome, found = "away", None
        self._count(search.asked.path, search.outcome)
        return found

    def _kept(self, opened: OpenAnswer, asking: Asking, search: "_Search") -> OpenAnswer:
        asked = search.asked
        if opened.model != asked.model:  # its alias moved while we looked
            return opened
        recording = Recording(opened.model, opened.source)

        def accepted() -> None:
            whole = recording.whole
            if whole is None:
                self._cache.metrics.answers.labels(asked.path, "unfit").inc()
            else:
                self._cache.keeper.keep(asked, whole, asking.config.ttl_seconds, search.vector)

        return replace(opened, source=recording, accepted=accepted)

    def _count(self, path: str, outcome: str) -> None:
        self._cache.metrics.lookups.labels(path, outcome).inc()


class _Search:
    """Looks for one answer."""

    def __init__(
        self, cache: Cache, asked: Asked, threshold: float, vector: Vector | None, embed: Embed | None
    ) -> None:
        self.asked = asked
        self.outcome = "miss"
        self.vector = vector if asked.near else None
        """Of the question, once it is needed and can be had."""
        self.embeddings = 0
        """Made for this."""
        self._cache = cache
        self._threshold = threshold
        self._embed = embed

    async def run(self) -> Recorded | None:
        """Raises Unavailable where Redis is away."""
        asked, neighbours = self.asked, self._cache.neighbours
        found = await self._cache.store.look(asked, neighbours.last_place(asked.near))
        answer = read(found.whole) if found.whole is not None else None
        if answer is not None:
            self.outcome = "exact"
            return answer
        if not asked.near:
            return None
        neighbours.hear(asked.near, found.news)
        return await self._alike()

    async def _alike(self) -> Recorded | None:
        if self.vector is None and self._embed is not None:
            self.vector = await self._embed.embed(self.asked.question)
            self.embeddings = 1
        if self.vector is None:
            return None
        near, neighbours = self.asked.near, self._cache.neighbours
        digest = neighbours.nearest(near, self.vector, self._threshold)
        if not digest:
            return None
        whole = await self._cache.store.read(self.asked.tenant, digest)
        answer = read(whole) if whole is not None else None
        if answer is None:
            neighbours.forget(near, digest)
            return None
        self.outcome = "semantic"
        return answer
