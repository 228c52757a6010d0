"""What happened, for whoever counts it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SearchCompleted:
    collection: str
    passages: int
    seconds: float
    legs: Mapping[str, float] = field(default_factory=dict)  # seconds of each part
    best: float | None = None  # the first passage's cosine, where there is one


@dataclass(frozen=True, slots=True)
class SearchFailed:
    code: str
    seconds: float


@dataclass(frozen=True, slots=True)
class DocumentsUpserted:
    collection: str
    documents: int
    unchanged: int = 0  # of them
    chunks: int = 0  # new ones
    calls: int = 1  # that is, for an ingest, its documents


@dataclass(frozen=True, slots=True)
class CollectionDropped:
    collection: str


@dataclass(frozen=True, slots=True)
class CollectionSize:
    """What there is of a collection; not a happening, but asked for."""

    name: str
    documents: int
    chunks: int
    bytes: int
    index_vectors: int
    index_age: float  # seconds
    is_inconsistent: bool


Event = SearchCompleted | SearchFailed | DocumentsUpserted | CollectionDropped


class Observer(Protocol):
    """Called from several threads."""

    def note(self, fact: Event) -> None: ...
