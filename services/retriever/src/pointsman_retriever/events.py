"""The events that collections report, such as a completed search, and the interface of observers that count or trace
them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

SetAttributes = Callable[[Mapping[str, str | int | float]], None]


@dataclass(frozen=True, slots=True)
class SearchCompleted:
    collection: str
    passages: int
    seconds: float
    timings: Mapping[str, float] = field(default_factory=dict)  # seconds by phase
    best_cosine: float | None = None  # the greatest cosine among the candidates; None if nothing was found
    top_k: int = 0  # the most passages that were asked for; 0 if it is unknown


@dataclass(frozen=True, slots=True)
class SearchFailed:
    code: str
    seconds: float


@dataclass(frozen=True, slots=True)
class DocumentsUpserted:
    collection: str
    documents: int
    unchanged: int = 0  # of these documents
    chunks: int = 0  # newly written
    calls: int = 1  # for an ingest stream, each document counts as one call


@dataclass(frozen=True, slots=True)
class CollectionDropped:
    collection: str


@dataclass(frozen=True, slots=True)
class CollectionSize:
    """The current size of a collection, for the metrics. It is not an event."""

    name: str
    documents: int
    chunks: int
    bytes: int
    index_vectors: int
    index_age: float  # seconds
    is_inconsistent: bool


Event = SearchCompleted | SearchFailed | DocumentsUpserted | CollectionDropped


class Observer(Protocol):
    """Interface of objects to which collections report events, such as searches and changes, from several threads.
    `Metrics` and `TracedObserver` implement it.
    """

    def record(self, event: Event) -> None: ...


class TracedObserver:
    """An observer that writes each completed search to the current trace span, and passes all events on to another
    observer.
    """

    def __init__(self, inner: Observer, set_attributes: SetAttributes) -> None:
        """Takes `inner`, which gets all events, and a function that sets attributes of the current trace span."""
        self._inner = inner
        self._set_attributes = set_attributes

    def record(self, event: Event) -> None:
        if isinstance(event, SearchCompleted):
            self._set_attributes(_to_span_attributes(event))
        self._inner.record(event)


def _to_span_attributes(event: SearchCompleted) -> dict[str, str | int | float]:
    """Returns the attributes of a search's span: `gen_ai.*` by OpenTelemetry's conventions, and `pointsman.*`."""
    return {
        "gen_ai.operation.name": "retrieval",
        "gen_ai.provider.name": "pointsman",
        "gen_ai.data_source.id": event.collection,
        **({"gen_ai.retrieval.top_k": event.top_k} if event.top_k else {}),
        "pointsman.passages": event.passages,
        **({} if event.best_cosine is None else {"pointsman.best_cosine": event.best_cosine}),
        **{f"pointsman.seconds.{phase}": seconds for phase, seconds in event.timings.items()},
    }
