"""What was kept of answers, with what was said of them; of tenants that consent now, all else is removed."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from pointsman_servicekit.keys.records import TenantRecord

from pointsman_gateway.config.schema import LearningConfig
from pointsman_gateway.journal import keys
from pointsman_gateway.journal.lessons import VERSION
from pointsman_gateway.workbench.history import History


@dataclass(frozen=True, slots=True)
class Said:
    """Feedback on one decision; what was not said is empty."""

    rating: float | None = None
    right_task: str = ""
    right_answer: str = ""
    unix_ms: int = 0


NOTHING = Said()


@dataclass(frozen=True, slots=True)
class Answer:
    path: str
    text: str
    rulings: tuple[str, ...] = ()
    """Of the task's validators."""

    @property
    def accepted(self) -> bool:
        """By every validator, and there was one."""
        return bool(self.rulings) and all(ruling == "accepted" for ruling in self.rulings)


@dataclass(frozen=True, slots=True)
class Lesson:
    decision: str
    tenant: str
    kind: str
    """Of the path that answered the caller."""
    messages: tuple[Mapping[str, Any], ...]
    answers: tuple[Answer, ...]
    """The last one is the caller's, those before it were refused."""
    said: Said = NOTHING


@dataclass(frozen=True, slots=True)
class Consent:
    """Who lets be learnt from the answers of one task."""

    task: str
    tenants: Mapping[str, TenantRecord]
    without_keys: bool

    def of(self, tenant: str) -> bool:
        if not tenant:
            return self.without_keys
        record = self.tenants.get(tenant)
        return record is not None and record.consents_to(self.task)


@dataclass(frozen=True, slots=True)
class Kept:
    lessons: tuple[Lesson, ...]
    """Oldest first."""
    withdrawn: tuple[str, ...]
    """Decisions whose tenant does not consent any more; they are gone from Redis."""


async def read_lessons(history: History, learning: LearningConfig | None, task: str) -> Kept:
    """Of a task that the configuration does not name nothing is read, and nothing removed. Raises Unavailable."""
    if learning is None or task not in learning.tasks:
        return Kept((), ())
    consent = Consent(task, await history.tenants(), learning.without_keys)
    said = {decision: one async for decision, one in _said(history)}
    found, withdrawn = [], {}
    async for place, fields in history.entries(keys.LESSONS):
        body = json.loads(fields["lesson"])
        if body["v"] != VERSION or body["task"] != task:
            continue
        if consent.of(fields["tenant"]):
            found.append(_lesson(body, said.get(fields["decision"], NOTHING)))
        elif fields["tenant"]:
            withdrawn[place] = fields["decision"]
    await history.forget(keys.LESSONS, tuple(withdrawn))
    return Kept(tuple(found), tuple(withdrawn.values()))


async def _said(history: History) -> AsyncIterator[tuple[str, Said]]:
    async for _, fields in history.entries(keys.FEEDBACK):
        rating = float(fields["rating"]) if fields["rating"] else None
        yield (
            fields["decision"],
            Said(rating, fields["right_task"], fields["right_answer"], int(fields["unix_ms"])),
        )


def _lesson(body: Mapping[str, Any], said: Said) -> Lesson:
    answers = tuple(
        Answer(a["path"], a["text"], tuple(verdict[1] for verdict in a["verdicts"])) for a in body["answers"]
    )
    return Lesson(body["decision"], body["tenant"], body["kind"], tuple(body["messages"]), answers, said)
