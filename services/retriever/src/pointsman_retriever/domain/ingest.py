"""The outcome of an ingest: of each document, and of the whole stream."""

from dataclasses import dataclass
from enum import Enum


class DocumentState(Enum):
    WRITTEN = "written"
    UNCHANGED = "unchanged"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class DocumentOutcome:
    """What an ingest did with one document: its state, its new chunks, and an error's code and message."""

    id: str
    state: DocumentState
    chunks: int = 0  # newly written
    code: str = ""  # of the error
    message: str = ""


@dataclass(frozen=True, slots=True)
class IngestSummary:
    """How many documents and chunks an ingest has written, skipped, refused and removed."""

    written: int = 0
    unchanged: int = 0
    failed: int = 0
    removed: int = 0
    chunks: int = 0  # newly written
    version: int = 0


@dataclass(frozen=True, slots=True)
class IngestEnd:
    """The message with which a client ends an ingest stream."""

    remove_missing: bool
