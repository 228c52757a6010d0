"""What happened, for whoever counts it."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Searched:
    collection: str
    passages: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Upserted:
    collection: str
    documents: int


@dataclass(frozen=True, slots=True)
class Dropped:
    collection: str


Fact = Searched | Upserted | Dropped


class Observer(Protocol):
    """Called from several threads."""

    def note(self, fact: Fact) -> None: ...
