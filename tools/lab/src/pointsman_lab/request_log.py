"""Reads the gateway's request log: decisions, the feedback on them, and each path's ratings and costs (evidence)."""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from math import inf
from typing import Any

from pointsman_gateway.classification.document_signals import sketches_used
from pointsman_gateway.domain import AUTO, UNKNOWN, Labels, Message, Path, Request, Sampling
from pointsman_gateway.request_log import redis_schema
from pointsman_gateway.request_log.entry import VERSION
from pointsman_gateway.request_log.evidence import ANSWERS, Counts, EvidenceKey, EvidenceStore
from pointsman_gateway.request_log.redis_schema import last_days
from pointsman_servicekit.errors import InvalidArgument

_AGE = re.compile(r"(\d+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 60 * 60, "d": 24 * 60 * 60}


def parse_age(age: str) -> int:
    """Converts an age such as "24h" to seconds; raises InvalidArgument if it has another form."""
    match = _AGE.fullmatch(age.strip())
    if match is None:
        raise InvalidArgument(f"'{age}' is not an age; write 30m, 24h or 7d", code="bad_age")
    return int(match[1]) * _SECONDS[match[2]]


@dataclass(frozen=True, slots=True)
class RecordedDecision:
    id: str
    request: Request
    """The request; its messages have no content if the text was not stored."""
    labels: Labels
    """The classifier's labels (task, confidence and others) at the time when the request was decided."""
    path: str
    """The policy's first choice, even if this path was unavailable and another one answered."""
    fingerprint: str
    """The fingerprint of the path's configuration at the time of the request."""
    revision: str
    user_digest: str
    """Digest of the user's name; empty if the request named no user."""
    expected_cost_usd: float | None
    """The expected dollars on `last_path`; None if the price of its model was unknown."""
    last_path: str
    """The path that was tried last; it differs from `path` after unavailability, a failure or an escalation."""
    answered_by: str = ""
    """The path that gave the complete answer; empty if no path did."""
    cost_usd: float | None = 0.0
    """The dollars of the answer by `answered_by`; None if they are unknown."""
    random_key: str = ""
    """The text whose hash made the random choices if the request named no user; if empty, the decision's id did."""

    @property
    def adapter(self) -> str:
        """Returns the adapter if the request named it as its model and was routed to it; empty if not."""
        return self.request.model if self.path == f"adapter:{self.request.model}" else ""

    @property
    def sketches(self) -> tuple[str, ...]:
        """Returns the names of document sketches (summaries of collections) on which the request's task may depend."""
        return sketches_used(self.labels.notes)

    @property
    def has_text(self) -> bool:
        return any(message.content for message in self.request.messages)


@dataclass(frozen=True, slots=True)
class TaskCorrection:
    """Feedback that names the right task of a request which the gateway had assigned to another task."""

    recorded: RecordedDecision
    right_task: str


@dataclass(slots=True)
class RatedRequest:
    """A request with the ratings of its answers; several paths may have answered it."""

    ratings: dict[EvidenceKey, float] = field(default_factory=dict)
    """Ratings from 0 to 1, by the path that was rated, with its configuration and adapter version (`EvidenceKey`)."""
    text: str = ""
    """The request's last message; empty if it was not stored."""


class RequestLog(ABC):
    """Interface for reading a request log, in Redis or in Parquet files.

    Each method raises Unavailable ("redis_unavailable") if Redis does not answer, or FailedPrecondition
    ("unreadable_records") if the files cannot be read.
    """

    @abstractmethod
    async def count(self, seconds: float) -> int:
        """Returns the approximate number of decisions in the last `seconds`."""

    @abstractmethod
    def entries(self, stream: str, seconds: float = inf) -> AsyncIterator[tuple[str, dict[str, str]]]:
        """Yields the id and the fields of each entry in a stream of the log, oldest first.

        Entries older than `seconds`, and entries that are added after the call, are left out.
        """

    @abstractmethod
    async def evidence(self, days: list[str]) -> dict[str, Counts]:
        """Returns the ratings, evaluations and costs of paths on each of the UTC days (YYYYMMDD), by day."""

    @abstractmethod
    async def complete_since(self, stream: str) -> float:
        """Returns the Unix seconds from which on the log has all entries of a stream; 0 if no entry was ever
        removed.
        """

    async def decisions(self, seconds: float) -> AsyncIterator[RecordedDecision]:
        """Yields the decisions of the last `seconds`, oldest first, up to the time of the call."""
        async for _, fields in self.entries(redis_schema.DECISIONS, seconds):
            recorded = to_recorded_decision(fields["entry"])
            if recorded is not None:
                yield recorded

    async def task_corrections(self, seconds: float) -> AsyncIterator[TaskCorrection]:
        """Yields the feedback of the last `seconds` that names another task than the gateway had found."""
        async for _, fields in self.entries(redis_schema.FEEDBACK, seconds):
            recorded = to_recorded_decision(fields["entry"]) if fields["right_task"] else None
            if recorded is not None and fields["right_task"] != recorded.labels.task:
                yield TaskCorrection(recorded, fields["right_task"])

    async def rated_requests(self, task: str, seconds: float) -> list[RatedRequest]:
        """Returns the requests of a task in the last `seconds` whose answers have ratings, with the ratings by path.

        Ratings come from people, or from shadow requests (copies sent to other paths), which are scored by validators,
        right answers or a judge. If both rate an answer, the person's rating counts.
        """
        requests = dict[str, RatedRequest]()
        async for _, fields in self.entries(redis_schema.PAIR_SCORES, seconds):
            scores = {EvidenceKey(*key): float(score) for key, score in json.loads(fields["scores"])}
            if all(key.task == task for key in scores):
                requests.setdefault(fields["decision"], RatedRequest()).ratings.update(scores)
        async for _, fields in self.entries(redis_schema.FEEDBACK, seconds):
            if not (fields["rating"] and fields["evidence_key"]):
                continue
            key = EvidenceKey(*json.loads(fields["evidence_key"]))
            if key.task == task:
                request = requests.setdefault(fields["decision"], RatedRequest())
                request.ratings[key], request.text = float(fields["rating"]), last_message(fields["entry"])
        if any(not request.text for request in requests.values()):
            async for _, fields in self.entries(redis_schema.DECISIONS, seconds):
                if fields["decision"] in requests:
                    requests[fields["decision"]].text = last_message(fields["entry"])
        return list(requests.values())


async def read_evidence(log: RequestLog, days: int) -> EvidenceStore:
    """Reads the ratings and costs of paths that gateways counted in the last `days`, and returns them as an
    EvidenceStore.

    Offline, it is not known to which adapter version an alias points, so the version that answered most recently on a
    path counts as the path's present version. If none has answered, the version that was evaluated most recently
    counts.
    """
    store, versions, evaluated = EvidenceStore(days), dict[tuple[str, str], str](), dict[tuple[str, str], str]()
    for day, counts in (await log.evidence(last_days(days)[::-1])).items():
        store.read(day, counts)
        for key, sums in counts.items():
            (versions if ANSWERS in sums else evaluated)[key.path, key.fingerprint] = key.version
    versions = evaluated | versions

    def version_of(path: Path) -> str:
        return versions.get((path.name, path.fingerprint), "")

    store.versions = version_of
    return store


def last_message(entry: str) -> str:
    """Returns the text of the last message in an entry (JSON) of the request log.

    Returns '' if the messages were not stored, or if the last message is not only text.
    """
    messages = json.loads(entry)["messages"]
    content = messages[-1]["content"] if messages else ""
    return content if isinstance(content, str) else ""


def to_recorded_decision(entry: str) -> RecordedDecision | None:
    """Parses an entry (JSON) of the request log; returns None if the entry has another format version."""
    body = json.loads(entry)
    if body["v"] != VERSION:
        return None
    answered = body["outcome"] == "ok"
    first = _first_choice(body)
    return RecordedDecision(
        id=body["id"],
        request=_request(body),
        labels=_labels(body),
        path=first,
        fingerprint=body["fingerprint"] if first == body["path"] else "",
        revision=body["revision"],
        user_digest=body["user_digest"],
        expected_cost_usd=body["expected_cost_usd"],
        last_path=body["path"],
        answered_by=(body["escalated_from"] or body["path"]) if answered else "",
        cost_usd=body["cost_usd"] if answered else 0.0,
        random_key=body.get("random_key", ""),
    )


def _first_choice(body: dict[str, Any]) -> str:
    """Returns the path that the policy chose first, even if another path was used after a failure or an escalation."""
    went_elsewhere = body["reason"] in ("availability", "fallback") or body["reason"].startswith("escalated:")
    return str(body["considered"][0]["path"] if went_elsewhere and body["considered"] else body["path"])


def _request(body: dict[str, Any]) -> Request:
    stored = body["messages"] or [{"role": "user", "content": ""}]
    messages = tuple(
        Message(
            message["role"],
            message["content"],
            {key: value for key, value in message.items() if key not in ("role", "content")},
        )
        for message in stored
    )
    extra = {"response_format": {"type": body["response_format"]}} if body["response_format"] else {}
    return Request(
        body["requested"], messages, Sampling(extra=extra), metadata=body["metadata"], user=body["user"] or ""
    )


def _labels(body: dict[str, Any]) -> Labels:
    return Labels(
        task=body["task"],
        confidence=body["confidence"],
        probabilities=tuple((task, probability) for task, probability in body["probabilities"]),
        abstained=body["task"] == UNKNOWN and body["requested"] == AUTO,
        stage=body["stage"],
        margin=body["margin"],
        in_distribution_score=body["in_distribution_score"],
        notes=tuple(body["notes"]),
    )
