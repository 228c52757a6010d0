"""The reports of an ingest for each document and for the whole stream, and the message that ends the stream."""

from dataclasses import dataclass
from enum import Enum


class DocumentState(Enum):
    WRITTEN = "written"
    UNCHANGED = "unchanged"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class DocumentOutcome:
    """The result of an ingest for one document: its state, the number of new chunks, and the error if it failed."""

    id: str
    state: DocumentState
    chunks: int = 0  # newly written
    code: str = ""  # of the error
    message: str = ""


@dataclass(frozen=True, slots=True)
class IngestSummary:
    """The counts of one ingest: documents written, left unchanged, failed and removed, and chunks written.

    `version` is the collection's version at the end.
    """

    written: int = 0
    unchanged: int = 0
    failed: int = 0
    removed: int = 0
    chunks: int = 0  # newly written
    version: int = 0


@dataclass(frozen=True, slots=True)
class IngestEnd:
    """The message with which a client ends an ingest stream.

    With `remove_missing`, stored documents that have the stream's source and were not sent in the stream are deleted.
    Nothing is deleted if a JSON Lines file or a line of it could not be read.
    """

    remove_missing: bool
