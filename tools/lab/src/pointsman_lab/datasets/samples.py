"""Read stored answers and their feedback, and remove those of tenants that withdrew their consent."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pointsman_gateway.config.schema import LearningConfig
from pointsman_gateway.request_log import redis_schema
from pointsman_gateway.request_log.entry import SAMPLE_VERSION
from pointsman_servicekit.keys.records import TenantRecord

from pointsman_lab.datasets.rows import Pair, Row, Source, canonical, texts_of
from pointsman_lab.request_log import History


@dataclass(frozen=True, slots=True)
class DecisionFeedback:
    """The feedback on one decision; missing parts are empty."""

    rating: float | None = None
    right_task: str = ""
    right_answer: str = ""
    unix_ms: int = 0


NOTHING = DecisionFeedback()


@dataclass(frozen=True, slots=True)
class Answer:
    path: str
    text: str
    rulings: tuple[str, ...] = ()
    """Rulings of the task's validators."""

    @property
    def accepted(self) -> bool:
        """Whether at least one validator judged the answer and all accepted it."""
        return bool(self.rulings) and all(ruling == "accepted" for ruling in self.rulings)


@dataclass(frozen=True, slots=True)
class TrainingSample:
    decision: str
    tenant: str
    kind: str
    """Kind of the path that returned the answer."""
    messages: tuple[Mapping[str, Any], ...]
    answers: tuple[Answer, ...]
    """The last answer was returned to the client; earlier ones were rejected by a validator."""
    feedback: DecisionFeedback = NOTHING


@dataclass(frozen=True, slots=True)
class Consent:
    """Tenants that allow training on their answers to one task."""

    task: str
    tenants: Mapping[str, TenantRecord]
    without_keys: bool

    def of(self, tenant: str) -> bool:
        if not tenant:
            return self.without_keys
        record = self.tenants.get(tenant)
        return record is not None and record.consents_to(self.task)


@dataclass(frozen=True, slots=True)
class StoredSamples:
    lessons: tuple[TrainingSample, ...]
    """Stored answers, oldest first."""
    withdrawn: tuple[str, ...]
    """Decisions whose tenant withdrew its consent. They have been deleted from Redis."""


async def read_samples(history: History, learning: LearningConfig | None, task: str) -> StoredSamples:
    """Read a task's stored answers and delete those without consent. Tasks that the configuration does not name are
    neither read nor deleted. Raises Unavailable."""
    if learning is None or task not in learning.tasks:
        return StoredSamples((), ())
    consent = Consent(task, await history.tenants(), learning.without_keys)
    feedback = {decision: one async for decision, one in _feedback(history)}
    found, withdrawn = [], {}
    async for place, fields in history.entries(redis_schema.TRAINING_SAMPLES):
        body = json.loads(fields["lesson"])
        if body["v"] != SAMPLE_VERSION or body["task"] != task:
            continue
        if consent.of(fields["tenant"]):
            found.append(_sample(body, feedback.get(fields["decision"], NOTHING)))
        elif fields["tenant"]:
            withdrawn[place] = fields["decision"]
    await history.forget(redis_schema.TRAINING_SAMPLES, tuple(withdrawn))
    return StoredSamples(tuple(found), tuple(withdrawn.values()))


async def _feedback(history: History) -> AsyncIterator[tuple[str, DecisionFeedback]]:
    async for _, fields in history.entries(redis_schema.FEEDBACK):
        rating = float(fields["rating"]) if fields["rating"] else None
        yield (
            fields["decision"],
            DecisionFeedback(rating, fields["right_task"], fields["right_answer"], int(fields["unix_ms"])),
        )


def _sample(body: Mapping[str, Any], feedback: DecisionFeedback) -> TrainingSample:
    answers = tuple(
        Answer(a["path"], a["text"], tuple(verdict[1] for verdict in a["verdicts"])) for a in body["answers"]
    )
    return TrainingSample(body["decision"], body["tenant"], body["kind"], tuple(body["messages"]), answers, feedback)


@dataclass(frozen=True, slots=True)
class ExtractionRules:
    task: str
    teacher: str
    """The path whose unrated answers are used. An adapter is never trained on its own unrated answers."""
    least_rating: float


@dataclass(frozen=True, slots=True)
class ExtractedRow:
    rows: tuple[Row, ...] = ()
    """At most one row."""
    pairs: tuple[Pair, ...] = ()
    why_not: str = ""
    """The reason if there is no row."""


def extract_row(sample: TrainingSample, terms: ExtractionRules) -> ExtractedRow:
    messages, feedback = texts_of(sample.messages), sample.feedback
    if messages is None:
        return ExtractedRow(why_not="more than texts")
    if feedback.right_task and feedback.right_task != terms.task:
        return ExtractedRow(why_not="of another task")
    answer, source, why_not = _correct_answer(sample, terms)
    if source is None:
        return ExtractedRow(why_not=why_not)
    row = Row(messages, canonical(answer), source, sample.decision, sample.tenant)
    return ExtractedRow((row,), tuple(_pairs(row, sample)))


def _correct_answer(sample: TrainingSample, terms: ExtractionRules) -> tuple[str, Source | None, str]:
    """Return the correct answer and its source, or the reason why there is none."""
    feedback, given = sample.feedback, sample.answers[-1]
    if feedback.right_answer.strip():
        looked_up = sample.kind in ("rag", "hybrid")
        return feedback.right_answer, Source.RETRIEVAL_CORRECTED if looked_up else Source.EXPERT, ""
    if feedback.rating is not None:
        good = feedback.rating >= terms.least_rating
        return given.text, Source.RATED if good else None, "rated low"
    if not given.accepted:
        return "", None, "nobody said that it is right"
    return given.text, Source.ACCEPTED if given.path == terms.teacher else None, "not the teacher's, and not rated"


def _pairs(row: Row, sample: TrainingSample) -> Iterator[Pair]:
    """Yield a pair of the correct answer and each rejected one, and of a correction and the answer it replaces."""
    for answer in _rejected_answers(sample):
        if canonical(answer.text) != row.answer:
            yield Pair(row, canonical(answer.text))


def _rejected_answers(sample: TrainingSample) -> tuple[Answer, ...]:
    return sample.answers if sample.feedback.right_answer.strip() else sample.answers[:-1]
