"""The tests that every external store must pass: with the same documents, its searches have the same results as the
service's own."""

import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from pointsman_retriever.collections.external import ExternalCollection
from pointsman_retriever.domain import CollectionId, SearchOptions, Vectors
from pointsman_retriever.external.stores import ExternalFields, ExternalOptions, ExternalStore
from pointsman_retriever.filters import Eq
from pointsman_retriever.search.ranking import ResolvedQuery
from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, Unavailable

DIMENSIONS = 8
TEXTS = {
    "bicycles.md": ("Bicycles", "A bicycle travels free of charge on every train", "free"),
    "dogs.md": ("Dogs", "Dogs need a ticket, and a muzzle in the dining car", "animals"),
    "refunds.md": ("Refunds", "A refund is paid within fourteen days", "money"),
    "lifts.md": ("Lifts", "The lift at the station is out of order", "access"),
}


@dataclass(frozen=True)
class Row:
    number: int
    source: str
    title: str
    body: str
    topic: str
    vector: Vectors


def rows() -> list[Row]:
    vectors = np.linalg.qr(np.random.default_rng(3).normal(size=(DIMENSIONS, DIMENSIONS)))[0].astype(np.float32)
    return [Row(n, source, *texts, vectors[n]) for n, (source, texts) in enumerate(TEXTS.items(), 1)]


def toward(number: int) -> Vectors:
    """Returns a unit vector with a cosine of 0.8 to the vector of this row, and of 0.6 to the vector of the next
    row.
    """
    first, second = rows()[number - 1].vector, rows()[number % len(TEXTS)].vector
    return (0.8 * first + 0.6 * second).astype(np.float32)


FIELDS = ExternalFields(text="body", source="source", title="title", metadata=("topic",))


class Conformance:
    """Tests for one store. A subclass names the store's class, and fills the store in `options`."""

    implementation: type[Any]
    has_words = False

    @pytest.fixture
    def options(self) -> ExternalOptions:
        raise NotImplementedError

    @pytest.fixture
    def unreachable(self) -> ExternalOptions:
        return ExternalOptions("http://127.0.0.1:9", "docs", "", 1.0, FIELDS)

    @pytest.fixture
    def collection(self, options: ExternalOptions) -> Iterator[ExternalCollection]:
        opened = self.open(options)
        yield opened
        opened.close()

    def open(self, options: ExternalOptions) -> ExternalCollection:
        def connect() -> ExternalStore:
            store: ExternalStore = self.implementation(options)
            return store

        return ExternalCollection(CollectionId("default", "handbook"), options.fields, connect, "model")

    def test_passages_are_found_by_meaning_with_their_fields_and_cosine(self, collection: ExternalCollection) -> None:
        found = collection.search(asked("", toward(2), dense_weight=1.0))

        assert [passage.document_id for passage in found.passages[:2]] == ["dogs.md", "refunds.md"]
        first = found.passages[0]
        assert (first.title, first.text, first.metadata) == (*TEXTS["dogs.md"][:2], {"topic": "animals"})
        assert first.dense_score == pytest.approx(0.8, abs=0.01)
        assert first.score == pytest.approx(1.0)
        assert found.relevance.relevant
        assert len(found.passages) == len(TEXTS)
        assert (collection.info.dimensions, collection.info.documents, collection.problem) == (DIMENSIONS, 4, "")

    def test_words_are_ranked_too_if_the_store_ranks_by_them(self, collection: ExternalCollection) -> None:
        found = collection.search(asked("is the refund paid?", toward(1)))

        explanations = {passage.document_id: passage.explanation for passage in found.passages}
        assert (explanations["refunds.md"].sparse_rank == 1) == self.has_words
        assert explanations["bicycles.md"].dense_rank == 1

    def test_a_search_returns_no_more_than_asked_for(self, collection: ExternalCollection) -> None:
        assert len(collection.search(asked("dogs", toward(1), top_k=2)).passages) == 2

    def test_a_vector_of_another_length_is_refused_with_both_lengths(self, collection: ExternalCollection) -> None:
        with pytest.raises(FailedPrecondition, match="have 8 dimensions, and the embedding model 'model' makes 3"):
            collection.search(asked("dogs", np.ones(3, np.float32)))
        assert "dimensions" in collection.problem

    def test_a_filter_is_refused(self, collection: ExternalCollection) -> None:
        with pytest.raises(InvalidArgument, match="no filter is supported"):
            collection.search(ResolvedQuery("dogs", toward(1), "model", Eq("topic", "money"), SearchOptions(top_k=3)))

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"fields": FIELDS.model_copy(update={"text": "bodi"})}, "no field 'bodi'; it has: .*body"),
            ({"name": "docks"}, "docks"),
        ],
    )
    def test_a_missing_field_or_collection_is_named(
        self, options: ExternalOptions, changed: dict[str, Any], message: str
    ) -> None:
        names = ExternalOptions.__dataclass_fields__
        opened = self.open(ExternalOptions(**{name: changed.get(name, getattr(options, name)) for name in names}))
        with pytest.raises(FailedPrecondition, match=message):
            opened.search(asked("dogs", toward(1)))
        assert opened.problem
        opened.close()

    def test_a_store_that_is_away_is_an_error_that_a_retry_may_cure(self, unreachable: ExternalOptions) -> None:
        opened = self.open(unreachable)
        self._seconds_to_fail(opened)
        opened.close()

    def test_a_store_that_hangs_is_given_up_in_time_and_then_left_alone_for_as_long(
        self, unreachable: ExternalOptions
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            opened = self.open(replace(unreachable, url=unreachable.url.replace(":9", f":{port}")))
            seconds = [self._seconds_to_fail(opened) for _ in range(2)]
            opened.close()
        assert seconds[0] < 3
        assert seconds[1] < 0.5

    def _seconds_to_fail(self, collection: ExternalCollection) -> float:
        started = time.monotonic()
        with pytest.raises(Unavailable, match="the store of collection 'handbook' failed"):
            collection.search(asked("dogs", toward(1)))
        return time.monotonic() - started


def asked(text: str, vector: Vectors, dense_weight: float | None = None, top_k: int = 10) -> ResolvedQuery:
    return ResolvedQuery(text, vector, "model", None, SearchOptions(top_k=top_k, dense_weight=dense_weight))


def payloads() -> Sequence[dict[str, Any]]:
    """Returns the rows without their vectors."""
    return [{"source": row.source, "title": row.title, "body": row.body, "topic": row.topic} for row in rows()]
