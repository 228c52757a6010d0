"""The journal in Redis."""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from pointsman_servicekit.bounded_redis import BoundedRedis
from pointsman_servicekit.errors import NotFound

from pointsman_gateway.config.schema import JournalConfig, LearningConfig
from pointsman_gateway.domain import Feedback
from pointsman_gateway.request_log import redis_schema
from pointsman_gateway.request_log.entry import Entry
from pointsman_gateway.request_log.evidence import PER_RATING, Counts, from_fields, to_fields
from pointsman_gateway.request_log.wal import NO_OFFSETS, Offsets

_pack = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class Batch:
    """Written as one, however often it is sent."""

    number: int
    entries: Sequence[Entry]
    counts: Mapping[str, Counts] = field(default_factory=dict)
    """Of evidence, by day."""
    undecided: Sequence[str] = ()
    """Receipts of requests without a decision, JSON."""
    upto: Offsets = NO_OFFSETS
    """What of the counterfoils is done with once this is written."""
    not_ahead: int = 0
    """How many of its receipts have no counterfoil."""


class RequestLogStore:
    """Each method raises Unavailable ("redis_unavailable") where Redis does not answer in time."""

    def __init__(self, redis: BoundedRedis, config: JournalConfig) -> None:
        self.config = config
        """Each generation of the configuration puts its own here."""
        self.learning: LearningConfig | None = None
        """The same."""
        self._redis = redis
        self._write = redis.client.register_script(redis_schema.WRITE_SCRIPT)
        self._say = redis.client.register_script(redis_schema.ADD_FEEDBACK_SCRIPT)
        self._evidence = redis.client.register_script(redis_schema.EVIDENCE_SCRIPT)
        self.writer = secrets.token_hex(8)
        """The name under which batches are written."""

    async def write(self, batch: Batch) -> int:
        """Returns how many decisions the stream holds now."""
        return await self._send(self.writer, batch)

    async def write_for(self, writer: str, last: int, batch: Batch) -> bool:
        """Writes what a writer that is gone has left; False, and nothing is written, unless `last` is its last one."""
        return await self._send(writer, batch, str(last)) >= 0

    async def last_of(self, writer: str) -> int | None:
        """The number of the last batch that is written; None where none is, or that is no longer known."""
        number = await self._redis.call(lambda: self._redis.client.get(redis_schema.WRITER + writer))
        return None if number is None else int(number)

    async def _send(self, writer: str, batch: Batch, last: str = "") -> int:
        most_lessons = self.learning.most if self.learning else 0
        decisions = [(one.decision_id, one.cell, one.day, one.json, one.tenant, one.lesson) for one in batch.entries]
        arguments: list[Any] = [self.config.most, self._kept, batch.number, _pack(decisions), most_lessons]
        arguments += (self.config.most_undecided, len(batch.undecided), last, *batch.undecided)
        for counts in batch.counts.values():
            fields = to_fields(counts)
            arguments.append(len(fields))
            for name, number in fields.items():
                arguments += (name, number)
        days = [redis_schema.EVIDENCE + day for day in batch.counts]
        names = [
            redis_schema.DECISIONS,
            redis_schema.INDEX,
            redis_schema.WRITER + writer,
            redis_schema.TRAINING_SAMPLES,
            redis_schema.UNDECIDED,
            *days,
        ]
        return int(await self._redis.call(lambda: self._write(keys=names, args=arguments)))

    async def say(self, feedback: Feedback, unix_ms: int, call: str = "") -> str:
        """Returns "stored", "known" (the same was there already), "unknown" (the decision is not, or is another
        tenant's). All tries under one name of a call are told the same; without one its time is its name."""
        names = [
            redis_schema.DECISIONS,
            redis_schema.INDEX,
            redis_schema.FEEDBACK,
            redis_schema.FEEDBACK_INDEX,
            redis_schema.EVIDENCE,
        ]
        said = [
            "" if feedback.rating is None else f"{feedback.rating:.6g}",
            feedback.correction,
            feedback.right_task,
            feedback.right_answer,
        ]
        arguments = [
            feedback.decision_id,
            feedback.id,
            unix_ms,
            self.config.most_feedback,
            PER_RATING,
            self._kept,
            *said,
            feedback.tenant,
            call or unix_ms,
        ]
        return str(await self._redis.call(lambda: self._say(keys=names, args=arguments)))

    async def evidence(self, day: str) -> Counts:
        """As one text: redis-py takes milliseconds over hundreds of fields, in which no request goes on."""
        said = await self._redis.call(lambda: self._evidence(keys=[redis_schema.EVIDENCE + day]))
        in_turns = list(msgspec.json.decode(said))  # of a day without any, Lua says "{}"
        return from_fields(dict(zip(in_turns[::2], in_turns[1::2], strict=True)))

    @property
    def _kept(self) -> int:
        """Seconds that a day's evidence outlives its last change: longer than anybody reads it."""
        return (self.config.evidence_days + 2) * redis_schema.SECONDS_PER_DAY


@dataclass(frozen=True, slots=True)
class LogEntry:
    """An entry of the journal."""

    place: str
    """In the stream; of two the later one is the greater, once split at "-" and read as numbers."""
    json: str
    """docs/routing.md says what is in it."""


@dataclass(frozen=True, slots=True)
class RecordedDecision:
    """One decision, with what people said of it."""

    entry: Mapping[str, Any]
    said: Mapping[str, str]
    """`rating`, `correction`, `right_task`, `right_answer`, those that were said."""


class RequestLogReader:
    """Each method raises Unavailable ("redis_unavailable") where Redis does not answer in time."""

    def __init__(self, redis: BoundedRedis) -> None:
        """`redis` should be another one than the journal's own: a long read must not count as an outage there."""
        self._redis = redis

    async def before(self, place: str, after: str, count: int) -> Sequence[LogEntry]:
        """At most `count` entries between two places, both excluded, newest first; empty places: no bound."""
        highest, lowest = f"({place}" if place else "+", f"({after}" if after else "-"
        read = await self._redis.call(
            lambda: self._redis.client.xrevrange(redis_schema.DECISIONS, highest, lowest, count=count)
        )
        return [LogEntry(at, fields["entry"]) for at, fields in read]

    async def find(self, decision_id: str) -> RecordedDecision:
        """Raises NotFound ("unknown_decision")."""
        said = await self._at(redis_schema.FEEDBACK, redis_schema.FEEDBACK_INDEX, decision_id)
        kept = said or await self._at(redis_schema.DECISIONS, redis_schema.INDEX, decision_id)
        if kept is None:
            message = f"no decision '{decision_id[:128]}' is in the journal, or no longer"
            raise NotFound(message, code="unknown_decision", param="decision_id")
        things = ("rating", "correction", "right_task", "right_answer")
        return RecordedDecision(json.loads(kept["entry"]), {t: kept[t] for t in things if kept.get(t)})

    async def _at(self, stream: str, index: str, decision_id: str) -> Mapping[str, str] | None:
        place = await self._redis.call(lambda: self._redis.client.hget(index, decision_id))
        if not place:
            return None
        found = await self._redis.call(lambda: self._redis.client.xrange(stream, place, place))
        return found[0][1] if found else None
