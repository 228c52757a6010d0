"""Turns the answers that the gateway stored for training, and the feedback on them, into rows and preference pairs.

Only answers of tenants that consent when the data set is built are used.
"""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pointsman_gateway.config.flywheel import LearningConfig
from pointsman_gateway.request_log import redis_schema
from pointsman_gateway.request_log.entry import SAMPLE_VERSION
from pointsman_servicekit.keys.records import TenantRecord

from pointsman_lab.datasets.rows import PreferencePair, Row, Source, canonical, text_messages
from pointsman_lab.redis_log import RedisRequestLog


@dataclass(frozen=True, slots=True)
class AnswerFeedback:
    """A user's feedback on one answer.

    A rating, right task or right answer that was not given is None or empty. `unix_ms` is the time of the feedback in
    Unix milliseconds.
    """

    rating: float | None = None
    right_task: str = ""
    right_answer: str = ""
    unix_ms: int = 0


NO_FEEDBACK = AnswerFeedback()


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    path: str
    text: str
    rulings: tuple[str, ...] = ()
    """The ruling of each validator of the task: "accepted", or how it rejected the answer."""

    @property
    def accepted(self) -> bool:
        """Returns whether the answer had at least one validator and all accepted it."""
        return bool(self.rulings) and all(ruling == "accepted" for ruling in self.rulings)


@dataclass(frozen=True, slots=True)
class Sample:
    """One request with its answers, as the gateway stores it for training.

    `decision` is the request's id in the request log, and `kind` the kind of path that answered the caller, such as
    "rag".
    """

    decision: str
    tenant: str
    kind: str
    """Kind of the path that answered the caller."""
    messages: tuple[Mapping[str, Any], ...]
    answers: tuple[StoredAnswer, ...]
    """All answers to the request, in order; the caller received the last one, and validators rejected the earlier
    ones.
    """
    feedback: AnswerFeedback = NO_FEEDBACK


@dataclass(frozen=True, slots=True)
class Consent:
    """The consents of tenants to training on their stored answers to one task.

    `anonymous_consent` says whether answers to anonymous requests may be used.
    """

    task: str
    tenants: Mapping[str, TenantRecord]
    anonymous_consent: bool

    def covers(self, tenant: str) -> bool:
        if not tenant:
            return self.anonymous_consent
        record = self.tenants.get(tenant)
        return record is not None and record.consents_to(self.task)


@dataclass(frozen=True, slots=True)
class StoredSamples:
    samples: tuple[Sample, ...]
    """The samples, oldest first."""
    withdrawn: tuple[str, ...]
    """The ids of requests whose tenant has withdrawn its consent; the requests have been deleted from Redis."""


NO_SAMPLES = StoredSamples((), ())


async def read_samples(log: RedisRequestLog, learning: LearningConfig | None, task: str) -> StoredSamples:
    """Reads the requests of a task that the gateway stored for training, with their answers and the feedback on them.

    Entries of tenants that do not consent are deleted from Redis; entries without a tenant for which there is no
    consent are only left out. Returns no samples if `learning` is None or does not list the task. Raises Unavailable if
    Redis does not answer.
    """
    if learning is None or task not in learning.tasks:
        return NO_SAMPLES
    consent = Consent(task, await log.tenants(), learning.anonymous_consent)
    feedback = {decision: one async for decision, one in _feedback(log)}
    found, withdrawn = [], {}
    async for entry_id, fields in log.entries(redis_schema.TRAINING_SAMPLES):
        body = json.loads(fields["sample"])
        if body["v"] != SAMPLE_VERSION or body["task"] != task:
            continue
        if consent.covers(fields["tenant"]):
            found.append(_sample(body, feedback.get(fields["decision"], NO_FEEDBACK)))
        elif fields["tenant"]:
            withdrawn[entry_id] = fields["decision"]
    await log.delete(redis_schema.TRAINING_SAMPLES, tuple(withdrawn))
    return StoredSamples(tuple(found), tuple(withdrawn.values()))


async def _feedback(log: RedisRequestLog) -> AsyncIterator[tuple[str, AnswerFeedback]]:
    async for _, fields in log.entries(redis_schema.FEEDBACK):
        rating = float(fields["rating"]) if fields["rating"] else None
        yield (
            fields["decision"],
            AnswerFeedback(rating, fields["right_task"], fields["right_answer"], int(fields["unix_ms"])),
        )


def _sample(body: Mapping[str, Any], feedback: AnswerFeedback) -> Sample:
    answers = tuple(
        StoredAnswer(a["path"], a["text"], tuple(verdict[1] for verdict in a["verdicts"])) for a in body["answers"]
    )
    return Sample(body["decision"], body["tenant"], body["kind"], tuple(body["messages"]), answers, feedback)


@dataclass(frozen=True, slots=True)
class ExtractionTerms:
    task: str
    teacher: str
    """The path whose unrated answers become training data.

    Unrated answers of other paths do not, since the path that is trained must not learn from its own output.
    """
    min_rating: float


@dataclass(frozen=True, slots=True)
class Extracted:
    """The training row and preference pairs that one stored request contributes, or the reason why there is no row."""

    row: Row | None = None
    pairs: tuple[PreferencePair, ...] = ()
    rejected: str = ""
    """The reason why the request contributes no row; empty if it contributes one."""


def extract(sample: Sample, terms: ExtractionTerms) -> Extracted:
    """Returns the training row and the preference pairs of one stored request, or why it has none.

    Three answers are tried as the right answer, in this order: an expert's correction, an answer with a rating of at
    least `terms.min_rating`, and an unrated answer of the path `terms.teacher` that all validators accepted.
    """
    messages, feedback = text_messages(sample.messages), sample.feedback
    if messages is None:
        return Extracted(rejected="not only text")
    if feedback.right_task and feedback.right_task != terms.task:
        return Extracted(rejected="another task")
    answer, source, rejected = _right_answer(sample, terms)
    if source is None:
        return Extracted(rejected=rejected)
    row = Row(messages, canonical(answer), source, sample.decision, sample.tenant)
    return Extracted(row, tuple(_pairs(row, sample)))


def _right_answer(sample: Sample, terms: ExtractionTerms) -> tuple[str, Source | None, str]:
    """Returns the sample's right answer with its source, or why there is none."""
    feedback, given = sample.feedback, sample.answers[-1]
    if feedback.right_answer.strip():
        retrieved = sample.kind in ("rag", "hybrid")
        return feedback.right_answer, Source.RETRIEVAL_CORRECTED if retrieved else Source.EXPERT, ""
    if feedback.rating is not None:
        good = feedback.rating >= terms.min_rating
        return given.text, Source.RATED if good else None, "low rating"
    if not given.accepted:
        return "", None, "neither rated nor validated"
    return given.text, Source.ACCEPTED if given.path == terms.teacher else None, "unrated and not the teacher's"


def _pairs(row: Row, sample: Sample) -> Iterator[PreferencePair]:
    """Yields the right answer paired with each wrong answer to the request.

    Wrong are the answers that validators rejected, and the caller's answer if an expert corrected it.
    """
    for answer in _wrong_answers(sample):
        if canonical(answer.text) != row.answer:
            yield PreferencePair(row, canonical(answer.text))


def _wrong_answers(sample: Sample) -> tuple[StoredAnswer, ...]:
    return sample.answers if sample.feedback.right_answer.strip() else sample.answers[:-1]
