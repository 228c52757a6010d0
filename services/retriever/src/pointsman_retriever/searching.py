"""Searches: what is asked of all collections, and how each is searched."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, PointsmanError
from tokenizers import Tokenizer

from pointsman_retriever import limits
from pointsman_retriever.clock import Stopwatch
from pointsman_retriever.domain import CollectionId, Passage, Query, Relevance, SearchAnswer, SearchOptions
from pointsman_retriever.encoding import DocumentEncoder
from pointsman_retriever.facts import Observer, SearchCompleted, SearchFailed
from pointsman_retriever.search import ResolvedQuery, SearchSettings, serialize_search_settings
from pointsman_retriever.shelf import Collection
from pointsman_retriever.shelves import CollectionRegistry
from pointsman_retriever.workers import ThreadPools

MIN_RERANKED_PASSAGES = 50  # passages that a reranker reads; the reading is what takes the time


class Reranker(Protocol):
    async def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """How well each text answers, greater is better; raises Unavailable."""


@dataclass(frozen=True, slots=True)
class MeasuredResult:
    """What one look at the collection brought."""

    passages: tuple[Passage, ...]  # best first
    tokens: tuple[int, ...]  # of each
    version: int
    relevance: Relevance
    legs: Mapping[str, float]  # seconds


class SearchService:
    """For the event loop's thread; the work is done in the crew's."""

    def __init__(
        self,
        shelves: CollectionRegistry,
        encoder: DocumentEncoder,
        tokenizer: Tokenizer,
        observer: Observer,
        crew: ThreadPools,
        reranker: Reranker | None = None,
    ) -> None:
        """`tokenizer` must not truncate: it measures the passages."""
        self._shelves = shelves
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._observer = observer
        self._crew = crew
        self._reranker = reranker

    async def search(self, query: Query) -> SearchAnswer:
        """Raises InvalidArgument, NotFound, FailedPrecondition, Unavailable."""
        begun = time.perf_counter()
        try:
            return await self._search(query, begun)
        except PointsmanError as error:
            self._observer.note(SearchFailed(error.code, time.perf_counter() - begun))
            raise

    async def _search(self, query: Query, begun: float) -> SearchAnswer:
        limits.check_name(query.collection)
        shelf = self._shelves.pen(query.collection).shelf
        limits.check_query(query)
        self._encoder.check_made_here(shelf.collection)
        top_k = query.wishes.top_k or limits.DEFAULT_TOP_K
        wishes = replace(query.wishes, top_k=max(top_k, MIN_RERANKED_PASSAGES) if query.wishes.rerank else top_k)
        with self._crew.searches.place():
            found = await self._crew.searching.run(self._look, shelf, query, wishes)
            if query.wishes.rerank:
                found = await self._reranked(query.text, found, top_k)
        answer = SearchAnswer(found.passages, found.tokens, found.version, time.perf_counter() - begun, found.relevance)
        self._observer.note(
            SearchCompleted(
                str(query.collection),
                len(found.passages),
                answer.seconds,
                legs=found.legs,
                best=answer.relevance.dense if found.passages else None,
            )
        )
        return answer

    async def search_all(self, queries: Sequence[Query]) -> list[SearchAnswer | PointsmanError]:
        """Each is answered by itself, in the same order. Raises InvalidArgument for too many, or none."""
        if not 1 <= len(queries) <= limits.MAX_SEARCHES:
            raise InvalidArgument(
                f"a batch has {len(queries)} searches; 1 to {limits.MAX_SEARCHES} are taken",
                code="invalid_batch",
                param="searches",
            )
        return list(await asyncio.gather(*map(self._result, queries)))

    async def configure(self, collection: CollectionId, standard: SearchSettings) -> SearchSettings:
        """Raises InvalidArgument, NotFound."""
        limits.check_name(collection)
        if standard.dense_weight is not None:
            limits.check_share("dense_weight", standard.dense_weight, "0 (words only) to 1 (meaning only)")
        limits.check_share("least_coverage", standard.least_coverage, "0 (no word) to 1 (all of them)")
        if not -1.0 <= standard.least_dense <= 1.0:
            raise InvalidArgument(
                f"least_dense is {standard.least_dense}; it is a cosine",
                code="invalid_least_dense",
                param="least_dense",
            )
        shelf = self._shelves.pen(collection).shelf
        with self._crew.changes.place():
            await self._crew.writing.run(shelf.configure_search, serialize_search_settings(standard))
        return standard

    def _look(self, shelf: Collection, query: Query, wishes: SearchOptions) -> MeasuredResult:
        """All that needs no waiting, in one turn of a thread: each more would wait for the event loop once more."""
        clock = Stopwatch()
        question = ResolvedQuery(
            text=query.text,
            vector=self._encoder.query_vector(query),
            fingerprint=self._encoder.fingerprint,
            filter=query.filter,
            wishes=wishes,
        )
        clock.lap("embed")
        found = shelf.search(question)
        tokens = self._measured(found.passages)
        return MeasuredResult(found.passages, tokens, found.version, found.relevance, {**clock.laps, **found.legs})

    async def _result(self, query: Query) -> SearchAnswer | PointsmanError:
        try:
            return await self.search(query)
        except PointsmanError as error:
            return error

    async def _reranked(self, text: str, found: MeasuredResult, count: int) -> MeasuredResult:
        if self._reranker is None:
            raise FailedPrecondition(
                "this retriever has no reranker; set POINTSMAN_RETRIEVER_RERANKER to its address, or do not ask for it",
                code="no_reranker",
                param="rerank",
            )
        begun = time.perf_counter()
        scores = await self._reranker.rerank(text, [passage.text for passage in found.passages])
        order = sorted(range(len(scores)), key=lambda place: -scores[place])[:count]
        passages = [found.passages[place] for place in order]
        explained = tuple(
            replace(passage, explanation=replace(passage.explanation, rerank_score=scores[place]))
            for place, passage in zip(order, passages, strict=True)
        )
        return replace(
            found,
            passages=explained,
            tokens=tuple(found.tokens[place] for place in order),
            legs={**found.legs, "rerank": time.perf_counter() - begun},
        )

    def _measured(self, passages: Sequence[Passage]) -> tuple[int, ...]:
        # One by one: in a batch they would go to the tokenizer's own threads, which wait for a core of their own.
        return tuple(len(self._tokenizer.encode(passage.text, add_special_tokens=False)) for passage in passages)
