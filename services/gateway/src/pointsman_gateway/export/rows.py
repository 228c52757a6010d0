"""The records of the export log as the exporter decodes them: the fields that become columns."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated, Any

import msgspec
from pointsman_servicekit.keys.records import TENANT

from pointsman_gateway.request_log.export_log import AUDIT, DECISIONS, EVALUATIONS, FEEDBACK, SCORES, UNDECIDED

EPOCH = date(1970, 1, 1)
_MS_PER_DAY = 86_400_000
_DECISIONS = DECISIONS.encode()
_MAX_UNIX_MS = (2**64 - 1) // 1_000_000
"""The latest time that OTLP can express, in Unix milliseconds, in the year 2554: OTLP has nanoseconds in 64 bits."""


Partition = tuple[str, str, str]
"""The table, the UTC day (YYYY-MM-DD) and the tenant; the tenant is empty without authentication."""
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A whole number from 0 to the largest one that a column can hold."""


class Tokens(msgspec.Struct, frozen=True, gc=False):
    prompt_tokens: _Count = 0
    completion_tokens: _Count = 0
    cached_tokens: _Count = 0


class Seconds(msgspec.Struct, frozen=True, gc=False):
    total: float | None = None
    first_token: float | None = None


NO_TOKENS, NO_SECONDS = Tokens(), Seconds()


class ExportedRecord(msgspec.Struct, kw_only=True, gc=False):
    """The fields that records of all tables have. A field that is missing, because an older gateway wrote the
    record, has its default.
    """

    unix_ms: Annotated[int, msgspec.Meta(ge=0, le=_MAX_UNIX_MS)]
    id: str = ""
    tenant: str = ""
    entry: bytes = b""
    """The whole record as JSON, in UTF-8; set after the other fields were decoded."""


class ExportedReceipt(ExportedRecord, kw_only=True, gc=False):
    request_id: str = ""
    key: str = ""
    model: str = ""
    outcome: str = ""
    fault: str = ""
    usage: Tokens = NO_TOKENS
    cost_usd: float | None = None
    seconds: Seconds = NO_SECONDS


class ExportedDecision(ExportedReceipt, kw_only=True, gc=False):
    revision: str = ""
    task: str = ""
    confidence: float | None = None
    stage: str = ""
    path: str = ""
    kind: str = ""
    fingerprint: str = ""
    reason: str = ""
    requested: str = ""
    expected_cost_usd: float | None = None
    escalated_from: str = ""
    cached: str = ""
    engine: str = ""
    text: str = ""
    evidence_key: bytes = b""
    """The key under which Redis counts ratings of the answer; the record's JSON does not contain it."""


class ExportedUndecided(ExportedReceipt, kw_only=True, gc=False):
    operation: str = ""
    counted: bool | None = None


class ExportedFeedback(ExportedRecord, kw_only=True, gc=False):
    decision: str
    rating: float | None = None
    right_task: str = ""


class ExportedScore(ExportedRecord, kw_only=True, gc=False):
    of: str
    task: str
    path: str
    fingerprint: str
    version: str
    rows: _Count
    score: float


class ExportedChange(ExportedRecord, kw_only=True, gc=False):
    """An administrative change: the person or program that made it, the changed object, and the values before and
    after.
    """

    id: str
    who: str
    where: str
    kind: str
    change: str
    subject: str
    before: msgspec.Raw
    after: msgspec.Raw
    reason: str = ""

    @property
    def before_json(self) -> str:
        return bytes(self.before).decode()

    @property
    def after_json(self) -> str:
        return bytes(self.after).decode()


_TYPES: dict[str, type[ExportedRecord]] = {
    DECISIONS: ExportedDecision,
    UNDECIDED: ExportedUndecided,
    FEEDBACK: ExportedFeedback,
    SCORES: ExportedScore,
    EVALUATIONS: ExportedScore,
    AUDIT: ExportedChange,
}
_DECODE: dict[bytes, Any] = {name.encode(): msgspec.json.Decoder(row).decode for name, row in _TYPES.items()}


@dataclass(frozen=True, slots=True)
class Records:
    """The records of some segments by partition (table, day and tenant), and the lines that cannot be read."""

    by_partition: Mapping[Partition, list[ExportedRecord]]
    unreadable: Sequence[bytes]
    """The lines of the segments that cannot be decoded as records."""


def read_records(segment: bytes) -> Records:
    """Decodes the records in the content of a segment; the result also has the lines that cannot be read.

    An incomplete last line is left out: the process ended while it wrote the line.
    """
    groups: defaultdict[tuple[bytes, int, str], list[ExportedRecord]] = defaultdict(list)
    unreadable = []
    *lines, _incomplete = segment.split(b"\n")
    for line in lines:
        table, _, record = line.partition(b"\t")
        entry, _, evidence_key = record.partition(b"\t")
        try:
            row = _DECODE[table](entry)
            if not record.isascii():
                record.decode()  # the decoder skips fields without a column
            partition = (table, row.unix_ms // _MS_PER_DAY, row.tenant)
            if partition not in groups:
                _check_tenant(row.tenant)
        except (KeyError, ValueError):
            unreadable.append(line)
            continue
        row.entry = entry
        if table == _DECISIONS:
            row.evidence_key = evidence_key
        else:
            _identify(row, entry)
        groups[partition].append(row)
    return Records(
        {(table.decode(), _day(day), tenant): rows for (table, day, tenant), rows in groups.items()}, unreadable
    )


def to_line(table: str, row: ExportedRecord) -> bytes:
    """Encodes a record as a line of a segment of the table `table`, without the line break."""
    line = table.encode() + b"\t" + row.entry
    return line + b"\t" + row.evidence_key if isinstance(row, ExportedDecision) else line


def _check_tenant(name: str) -> None:
    """Raises ValueError if no tenant can have the name: it becomes a part of paths."""
    if name and not TENANT.fullmatch(name):
        raise ValueError(f"the tenant is '{name[:80]}'")


def _identify(row: ExportedRecord, entry: bytes) -> None:
    """Sets the record's id, which no other record has, except a record that replaces an earlier one: it has the same
    id.
    """
    if isinstance(row, ExportedFeedback):
        row.id = f"{row.decision}:{row.id}"
    elif isinstance(row, ExportedScore):
        row.id = _digest(repr((row.of, row.task, row.path, row.fingerprint, row.version)).encode())
    elif not isinstance(row, ExportedChange):
        row.id = _digest(entry)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _day(number: int) -> str:
    return (EPOCH + timedelta(days=number)).isoformat()
