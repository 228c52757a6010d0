"""Reads and writes the request log in Redis.

Writes batches of decisions, and users' feedback. Reads the entries of decisions, and the ratings by path.
"""

import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
from pointsman_servicekit.bounded_redis import BoundedRedis, parse_count, read_script
from pointsman_servicekit.errors import FailedPrecondition, NotFound, Unavailable

from pointsman_gateway.config.flywheel import LearningConfig
from pointsman_gateway.config.tasks_file import RequestLogConfig
from pointsman_gateway.domain import Feedback, PathScore
from pointsman_gateway.request_log import redis_schema, spending
from pointsman_gateway.request_log.entry import Entry
from pointsman_gateway.request_log.evidence import UNITS_PER_RATING, Counts, from_fields, path_key, to_fields
from pointsman_gateway.request_log.spending import SpendingCounts
from pointsman_gateway.request_log.wal_records import NO_OFFSETS, Offsets

log = logging.getLogger(__name__)

_pack = msgspec.msgpack.Encoder().encode

SPENDING_TTL_SECONDS = spending.DAYS_KEPT * redis_schema.SECONDS_PER_DAY
SCANNED_FIELDS = 1000
"""About the number of fields of a hash that one call reads, so that it does not block Redis for long."""

_ENTRY_TEXTS = ("tenant", "path", "task")
"""The fields of an entry that decide who may see it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Log entries and counts that are written to Redis together. Sending a batch again changes nothing, because
    Redis knows its number.
    """

    number: int
    entries: Sequence[Entry]
    counts: Mapping[str, Counts] = field(default_factory=dict)
    """The counts to add to the evidence (ratings, costs, latencies), by day (YYYYMMDD, UTC)."""
    spending: Mapping[str, SpendingCounts] = field(default_factory=dict)
    """The counts to add to the spending (requests, tokens, dollars), by day (YYYYMMDD, UTC)."""
    undecided: Sequence[str] = ()
    """The log entries of requests without a decision, as JSON."""
    upto: Offsets = NO_OFFSETS
    """The offsets in the write-ahead log up to which Redis has all receipts once this batch is written."""
    not_in_wal: int = 0
    """The number of the batch's receipts that the write-ahead log does not hold."""


class RequestLogStore:
    """Writes log entries and feedback to Redis, and reads the ratings, costs and latencies that were counted for each
    path; implements `EvaluationStore`.

    Each method raises Unavailable ("redis_unavailable") if Redis does not answer in time.
    """

    def __init__(self, redis: BoundedRedis, config: RequestLogConfig) -> None:
        self.config = config
        """The settings of the request log; each configuration sets them anew."""
        self.learning: LearningConfig | None = None
        """The settings that say which answers are stored for training; None if no answers are. Set anew with each
        configuration."""
        self._redis = redis
        self._write_script = redis.client.register_script(
            f"local WRITER_TTL_SECONDS = {redis_schema.WRITER_TTL_SECONDS}\n" + read_script(__package__, "write")
        )
        self._feedback_script = redis.client.register_script(read_script(__package__, "add_feedback"))
        self._evaluation_script = redis.client.register_script(read_script(__package__, "add_evaluation"))
        self._evidence_script = redis.client.register_script(read_script(__package__, "evidence"))
        self.writer = secrets.token_hex(8)
        """The name under which batches are written, random for each start of the process."""

    async def write(self, batch: Batch) -> int:
        """Writes a batch, unless Redis has it already. Returns how many decisions the stream of the request log has
        afterwards.
        """
        return await self._send(self.writer, batch)

    async def write_for(self, writer: str, last_batch: int, batch: Batch) -> bool:
        """Writes a batch in the name of `writer`, a gateway process that has ended; returns whether it was written.

        It is not written if the last batch of that process in Redis is not `last_batch` (0: none), because another
        batch has arrived late.
        """
        return await self._send(writer, batch, str(last_batch)) >= 0

    async def last_batch_of(self, writer: str) -> int | None:
        """Returns the number of the last batch that the gateway process `writer` wrote; None if Redis has no record
        of it.

        Also raises FailedPrecondition ("unreadable_record") if the value in Redis is not a number.
        """
        key = redis_schema.WRITER + writer
        number = await self._redis.call(lambda: self._redis.client.get(key))
        return None if number is None else parse_count(number, key)

    async def _send(self, writer: str, batch: Batch, last_batch: str = "") -> int:
        max_samples = self.learning.max_answers if self.learning else 0
        decisions = [
            (one.decision_id, one.evidence_key, one.day, one.json, one.tenant, one.sample) for one in batch.entries
        ]
        arguments: list[Any] = [
            self.config.max_decisions,
            batch.number,
            _pack(decisions),
            max_samples,
        ]
        arguments += (self.config.max_undecided, len(batch.undecided), last_batch, *batch.undecided)
        hashes = [(to_fields(counts), self._evidence_ttl) for counts in batch.counts.values()]
        hashes += [(spending.to_fields(counts), SPENDING_TTL_SECONDS) for counts in batch.spending.values()]
        for fields, ttl in hashes:
            arguments += (len(fields), ttl)
            for name, number in fields.items():
                arguments += (name, number)
        keys = [
            redis_schema.DECISIONS,
            redis_schema.INDEX,
            redis_schema.WRITER + writer,
            redis_schema.TRAINING_SAMPLES,
            redis_schema.UNDECIDED,
            *(redis_schema.EVIDENCE + day for day in batch.counts),
            *(redis_schema.SPENDING + day for day in batch.spending),
        ]
        return int(await self._redis.call(lambda: self._write_script(keys=keys, args=arguments)))

    async def add_feedback(self, feedback: Feedback, unix_ms: int, call_id: str) -> str:
        """Adds feedback to the entry of its decision, and its rating to the ratings of the path.

        Returns "stored", "known" (feedback with its id was stored before; nothing changes) or "unknown" (there is no
        decision with its id that the tenant may rate). `unix_ms` is when the feedback was accepted; values accepted
        later replace earlier ones. Retries with an equal `call_id` get an equal result.
        """
        keys = [
            redis_schema.DECISIONS,
            redis_schema.INDEX,
            redis_schema.FEEDBACK,
            redis_schema.FEEDBACK_INDEX,
            redis_schema.EVIDENCE,
        ]
        arguments = [
            feedback.decision_id,
            feedback.id,
            unix_ms,
            self.config.max_feedback,
            UNITS_PER_RATING,
            self._evidence_ttl,
            "" if feedback.rating is None else f"{feedback.rating:.6g}",
            feedback.correction,
            feedback.right_task,
            feedback.right_answer,
            feedback.tenant,
            call_id,
        ]
        return str(await self._redis.call(lambda: self._feedback_script(keys=keys, args=arguments)))

    async def add_evaluation(self, evaluation_id: str, results: Sequence[PathScore]) -> None:
        """Adds the scores of an evaluation to today's (UTC) ratings of the paths in `results`; a second call with
        the same `evaluation_id` replaces the scores of the first.
        """
        arguments: list[Any] = [redis_schema.today(), self._evidence_ttl]
        for result in results:
            key = path_key(result.task, result.path, result.model)
            arguments += (str(key), result.rows, round(result.score * result.rows * UNITS_PER_RATING))
        keys = [redis_schema.EVALUATION + evaluation_id, redis_schema.EVIDENCE]
        await self._redis.call(lambda: self._evaluation_script(keys=keys, args=arguments))

    async def evidence(self, day: str) -> Counts:
        """Returns the evidence (ratings, costs and latencies by path) that all gateways counted on `day` (YYYYMMDD,
        UTC).

        Fields that cannot be parsed are logged and skipped. Redis sends one JSON text, because redis-py would block
        for milliseconds to parse many fields.
        """
        key = redis_schema.EVIDENCE + day
        text = await self._redis.call(lambda: self._evidence_script(keys=[key]))
        names_and_numbers = list(msgspec.json.decode(text))  # for an empty hash Lua encodes "{}"
        counts, unreadable = from_fields(dict(zip(names_and_numbers[::2], names_and_numbers[1::2], strict=True)))
        if unreadable:
            log.error("%d fields of %s in Redis are no evidence, such as %.200r", len(unreadable), key, unreadable[0])
        return counts

    @property
    def _evidence_ttl(self) -> int:
        """Returns the seconds for which Redis keeps a day's evidence after its last change: two days more than
        `lookback_days`.
        """
        return (self.config.lookback_days + 2) * redis_schema.SECONDS_PER_DAY


@dataclass(frozen=True, slots=True)
class LogEntry:
    """An entry of the request log, as read from Redis: its id in the stream, and its JSON."""

    entry_id: str
    """The id in the stream, "NUMBER-NUMBER"; ids compared as pairs of numbers are in the order of time."""
    json: str
    """The entry as JSON, whose fields docs/request_log.md describes; empty if the stream's entry has no JSON."""


@dataclass(frozen=True, slots=True)
class RecordedDecision:
    """A decision's entry in the request log, with the feedback on its answer."""

    entry: Mapping[str, Any]
    """The fields of the entry, which docs/request_log.md describes."""
    feedback: Mapping[str, str]
    """The fields of the feedback, by name: those of `rating`, `correction`, `right_task` and `right_answer` that were
    given."""


class RequestLogReader:
    """Reads log entries, feedback and spending from Redis.

    Each method but `find_readable` raises Unavailable ("redis_unavailable") if Redis does not answer in time.
    """

    def __init__(self, redis: BoundedRedis) -> None:
        """Takes a Redis client. If `before` is called, which may read much, no other object may use the client: after a
        timeout, the client treats Redis as unavailable for a while.
        """
        self._redis = redis

    async def before(self, entry_id: str, after: str, count: int) -> Sequence[LogEntry]:
        """Returns up to `count` log entries that are older than the entry `entry_id` and newer than the entry
        `after`, newest first. An empty id sets no bound.
        """
        highest, lowest = f"({entry_id}" if entry_id else "+", f"({after}" if after else "-"
        read = await self._redis.call(
            lambda: self._redis.client.xrevrange(redis_schema.DECISIONS, highest, lowest, count=count)
        )
        return [LogEntry(found, fields.get("entry", "")) for found, fields in read]

    async def held(self, decision_ids: Sequence[str]) -> set[str]:
        """Returns those of the given ids whose decisions the request log in Redis still has."""
        if not decision_ids:
            return set()
        index = redis_schema.INDEX
        entry_ids = await self._redis.call(lambda: self._redis.client.hmget(index, list(decision_ids)))
        return {name for name, entry_id in zip(decision_ids, entry_ids, strict=True) if entry_id}

    async def find(self, decision_id: str) -> RecordedDecision:
        """Returns the decision with this id, of any tenant, with its feedback.

        Also raises NotFound ("unknown_decision") if the log does not have it, and FailedPrecondition
        ("unreadable_record") if its entry is damaged.
        """
        with_feedback = await self._at(redis_schema.FEEDBACK, redis_schema.FEEDBACK_INDEX, decision_id)
        found = with_feedback or await self._at(redis_schema.DECISIONS, redis_schema.INDEX, decision_id)
        if found is None:
            message = f"the request log has no decision '{decision_id[:128]}', or no longer"
            raise NotFound(message, code="unknown_decision", param="decision_id")
        names = ("rating", "correction", "right_task", "right_answer")
        return RecordedDecision(_entry_of(found, decision_id), {name: found[name] for name in names if found.get(name)})

    async def spending(self, day: str) -> SpendingCounts:
        """Returns the requests, tokens and dollars of `day` (YYYYMMDD, UTC) by tenant, API key, path and model.
        Fields that cannot be parsed are logged and skipped.
        """
        key, cursor = redis_schema.SPENDING + day, 0
        fields: dict[str, str] = {}
        while True:
            scan = partial(self._redis.client.hscan, key, cursor, count=SCANNED_FIELDS)
            cursor, some = await self._redis.call(scan)
            fields |= some
            if not cursor:
                break
        counts, unreadable = spending.from_fields(fields)
        if unreadable:
            log.error("%d fields of %s in Redis are no spending, such as %.200r", len(unreadable), key, unreadable[0])
        return counts

    async def find_readable(self, decision_id: str) -> RecordedDecision | None:
        """Returns the decision with this id and its feedback; None if it cannot be found or read. A damaged entry
        is logged.
        """
        try:
            return await self.find(decision_id)
        except FailedPrecondition as error:
            log.error("%s", error)
        except (NotFound, Unavailable):
            pass
        return None

    async def _at(self, stream: str, index: str, decision_id: str) -> Mapping[str, str] | None:
        entry_id = await self._redis.call(lambda: self._redis.client.hget(index, decision_id))
        if not entry_id:
            return None
        found = await self._redis.call(lambda: self._redis.client.xrange(stream, entry_id, entry_id))
        return found[0][1] if found else None


def _entry_of(found: Mapping[str, str], decision_id: str) -> Mapping[str, Any]:
    """Parses the entry of a decision; raises FailedPrecondition ("unreadable_record") if it is no JSON object with the
    texts in `_ENTRY_TEXTS`.
    """
    try:
        entry = json.loads(found["entry"])
        if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in _ENTRY_TEXTS):
            raise ValueError(f"it is no object with the texts {', '.join(_ENTRY_TEXTS)}")
    except (ValueError, LookupError, RecursionError) as error:
        raise FailedPrecondition(
            f"the entry of decision '{decision_id[:128]}' in the streams {redis_schema.DECISIONS} and "
            f"{redis_schema.FEEDBACK} of Redis cannot be read: {error}",
            code="unreadable_record",
        ) from error
    return entry
