"""Runs searches: checks a query, embeds its text, ranks passages of its collection, and reranks them if requested."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pointsman_servicekit.errors import InvalidArgument, PointsmanError
from tokenizers import Tokenizer

from pointsman_retriever import limits
from pointsman_retriever.collections.collection import Collection
from pointsman_retriever.collections.external import ExternalCollection
from pointsman_retriever.collections.registry import CollectionRegistry
from pointsman_retriever.collections.reranking import RerankService
from pointsman_retriever.collections.service import GONE
from pointsman_retriever.collections.shared import SharedCollection
from pointsman_retriever.concurrency import ThreadPools
from pointsman_retriever.domain import (
    CollectionId,
    Passage,
    Query,
    Relevance,
    SearchAnswer,
    SearchOptions,
    SearchSettings,
    serialize_search_settings,
)
from pointsman_retriever.encoder import DocumentEncoder
from pointsman_retriever.events import Observer, SearchCompleted, SearchFailed
from pointsman_retriever.search.ranking import ResolvedQuery, Stopwatch

MIN_RERANKED_PASSAGES = 50  # given to a reranker, even if fewer are asked for


@dataclass(frozen=True, slots=True)
class MeasuredResult:
    """The passages that a search found, before or after reranking, with the number of tokens of each passage.

    `version` is the collection's version, and `timings` are the seconds of each phase of the search.
    """

    passages: tuple[Passage, ...]  # best first
    tokens: tuple[int, ...]  # of each passage
    version: int
    relevance: Relevance
    timings: Mapping[str, float]  # seconds by phase


class SearchService:
    """Runs the searches of the retriever's collections.

    All methods are called in the event loop's thread; blocking work runs in the threads of `ThreadPools`.
    """

    def __init__(
        self,
        registry: CollectionRegistry,
        encoder: DocumentEncoder,
        tokenizer: Tokenizer,
        observer: Observer,
        pools: ThreadPools,
        reranking: RerankService,
    ) -> None:
        """Takes a `tokenizer` that counts the passages' tokens and does not truncate."""
        self._registry = registry
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._observer = observer
        self._pools = pools
        self._reranking = reranking

    async def search(self, query: Query) -> SearchAnswer:
        """Runs one query.

        Raises InvalidArgument if a name, the text, an option, the filter or the vector is not valid; NotFound;
        FailedPrecondition if the vectors are of another embedding model, if there is no reranker to rerank with, or if
        an external store lacks the collection or a field, or has vectors of other dimensions; ResourceExhausted
        ("overloaded") if too many searches are in progress; Unavailable if the index, the external store, the reranker
        or the embedding model's endpoint fails; storage errors (`translate_errors`); and for a damaged collection the
        error with which it failed to load.
        """
        started = time.perf_counter()
        try:
            return await self._search(query, started)
        except PointsmanError as error:
            self._observer.record(SearchFailed(error.code, time.perf_counter() - started))
            raise

    async def search_all(self, queries: Sequence[Query]) -> list[SearchAnswer | PointsmanError]:
        """Runs queries at the same time; returns the answer or the PointsmanError of each, in their order.

        Raises InvalidArgument ("invalid_batch") if there are no queries or more than `limits.MAX_SEARCHES`.
        """
        if not 1 <= len(queries) <= limits.MAX_SEARCHES:
            raise InvalidArgument(
                f"the batch has {len(queries)} searches; it needs 1 to {limits.MAX_SEARCHES}",
                code="invalid_batch",
                param="searches",
            )
        return list(await asyncio.gather(*map(self._search_or_error, queries)))

    async def configure(self, collection_id: CollectionId, settings: SearchSettings) -> SearchSettings:
        """Replaces a collection's search settings, and returns them.

        Raises InvalidArgument if a name or a setting is not valid, NotFound, FailedPrecondition for a collection in an
        external store, ResourceExhausted ("overloaded") if too many changes are in progress, storage errors
        (`translate_errors`), and for a damaged collection the error with which it failed to load.
        """
        limits.check_name(collection_id)
        if settings.dense_weight is not None:
            limits.check_share("dense_weight", settings.dense_weight, "0 (words only) to 1 (meaning only)")
        limits.check_share("least_coverage", settings.least_coverage, "0 (no word) to 1 (all words)")
        if not -1.0 <= settings.least_dense <= 1.0:
            raise InvalidArgument(
                f"least_dense is {settings.least_dense}; it is a cosine and ranges from -1 to 1",
                code="invalid_least_dense",
                param="least_dense",
            )
        await self._registry.prepare(collection_id)
        writer = self._registry.writer(collection_id)
        with self._pools.changes.slot():
            await writer.run(writer.collection.set_search_settings, serialize_search_settings(settings))
        return settings

    async def _search(self, query: Query, started: float) -> SearchAnswer:
        limits.check_name(query.collection)
        await self._registry.prepare(query.collection)
        collection = self._registry.searchable(query.collection)
        limits.check_query(query)
        if isinstance(collection, SharedCollection) and collection.info.fingerprint != self._encoder.fingerprint:
            await self._registry.refresh(query.collection)  # another retriever may have made it anew
            collection = self._registry.searchable(query.collection)
        self._encoder.check_model(collection.info)
        top_k = query.options.top_k or limits.DEFAULT_TOP_K
        fetched = max(top_k, MIN_RERANKED_PASSAGES) if query.options.rerank else top_k
        with self._pools.searches.slot():
            options = replace(query.options, top_k=fetched)
            try:
                found = await self._search_in(collection, query, options)
            except PointsmanError as error:
                if error.code not in GONE:
                    raise
                await self._registry.refresh(query.collection)
                other = self._registry.searchable(query.collection)
                if other.info.store == collection.info.store:  # it was deleted or replaced
                    raise
                found = await self._search_in(other, query, options)  # the collection was moved meanwhile
            if query.options.rerank:
                found = await self._rerank(query.text, found, top_k)
        answer = SearchAnswer(
            found.passages, found.tokens, found.version, time.perf_counter() - started, found.relevance
        )
        self._observer.record(
            SearchCompleted(
                str(query.collection),
                len(found.passages),
                answer.seconds,
                timings=found.timings,
                best_cosine=answer.relevance.best_dense if found.passages else None,
                top_k=top_k,
            )
        )
        return answer

    async def _search_in(
        self, collection: Collection | SharedCollection | ExternalCollection, query: Query, options: SearchOptions
    ) -> MeasuredResult:
        pools = self._pools
        local = pools.search if isinstance(collection, Collection) else pools.external
        pool = pools.shared_reads if isinstance(collection, SharedCollection) else local
        return await pool.run(self._search_blocking, collection, query, options)

    async def _search_or_error(self, query: Query) -> SearchAnswer | PointsmanError:
        try:
            return await self.search(query)
        except PointsmanError as error:
            return error

    def _search_blocking(
        self, collection: Collection | SharedCollection | ExternalCollection, query: Query, options: SearchOptions
    ) -> MeasuredResult:
        """Does all blocking work of a search in one call, since each return to the event loop between steps would take
        time.
        """
        stopwatch = Stopwatch()
        resolved = ResolvedQuery(
            text=query.text,
            vector=self._encoder.query_vector(query),
            fingerprint=self._encoder.fingerprint,
            filter=query.filter,
            options=options,
        )
        stopwatch.lap("embed")
        found = collection.search(resolved)
        tokens = self._count_tokens(found.passages)
        timings = {**stopwatch.timings, **found.timings}
        return MeasuredResult(found.passages, tokens, found.version, found.relevance, timings)

    async def _rerank(self, text: str, found: MeasuredResult, count: int) -> MeasuredResult:
        """Orders the passages by the reranker's scores and keeps the best `count`; raises as `RerankService.score`."""
        started = time.perf_counter()
        scores = await self._reranking.score(text, [passage.text for passage in found.passages])
        order = sorted(range(len(scores)), key=lambda place: -scores[place])[:count]
        passages = tuple(
            replace(passage, explanation=replace(passage.explanation, rerank_score=scores[place]))
            for place, passage in ((place, found.passages[place]) for place in order)
        )
        return replace(
            found,
            passages=passages,
            tokens=tuple(found.tokens[place] for place in order),
            timings={**found.timings, "rerank": time.perf_counter() - started},
        )

    def _count_tokens(self, passages: Sequence[Passage]) -> tuple[int, ...]:
        # One by one: a batch would run in the tokenizer's own threads, each of which waits for a core.
        return tuple(len(self._tokenizer.encode(passage.text, add_special_tokens=False)) for passage in passages)
