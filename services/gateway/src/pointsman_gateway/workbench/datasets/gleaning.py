"""From one lesson to rows and pairs: an expert's word first, then ratings, then what validators accepted."""

from collections.abc import Iterator
from dataclasses import dataclass

from pointsman_gateway.workbench.datasets.lessons import Answer, Lesson
from pointsman_gateway.workbench.datasets.rows import Pair, Row, Source, canonical, texts_of


@dataclass(frozen=True, slots=True)
class Terms:
    task: str
    teacher: str
    """The path whose answers count where nobody rated them: an adapter does not learn from itself unasked."""
    least_rating: float


@dataclass(frozen=True, slots=True)
class Gleaned:
    rows: tuple[Row, ...] = ()
    """One at most."""
    pairs: tuple[Pair, ...] = ()
    why_not: str = ""
    """Why there is no row."""


def glean(lesson: Lesson, terms: Terms) -> Gleaned:
    messages, said = texts_of(lesson.messages), lesson.said
    if messages is None:
        return Gleaned(why_not="more than texts")
    if said.right_task and said.right_task != terms.task:
        return Gleaned(why_not="of another task")
    answer, source, why_not = _right(lesson, terms)
    if source is None:
        return Gleaned(why_not=why_not)
    row = Row(messages, canonical(answer), source, lesson.decision, lesson.tenant)
    return Gleaned((row,), tuple(_pairs(row, lesson)))


def _right(lesson: Lesson, terms: Terms) -> tuple[str, Source | None, str]:
    """The right answer with its source, or why there is none."""
    said, given = lesson.said, lesson.answers[-1]
    if said.right_answer.strip():
        looked_up = lesson.kind in ("rag", "hybrid")
        return said.right_answer, Source.RETRIEVAL_CORRECTED if looked_up else Source.EXPERT, ""
    if said.rating is not None:
        good = said.rating >= terms.least_rating
        return given.text, Source.RATED if good else None, "rated low"
    if not given.accepted:
        return "", None, "nobody said that it is right"
    return given.text, Source.ACCEPTED if given.path == terms.teacher else None, "not the teacher's, and not rated"


def _pairs(row: Row, lesson: Lesson) -> Iterator[Pair]:
    """The right answer before each that was refused, and before the given one where it was put right."""
    for answer in _wrong(lesson):
        if canonical(answer.text) != row.answer:
            yield Pair(row, canonical(answer.text))


def _wrong(lesson: Lesson) -> tuple[Answer, ...]:
    return lesson.answers if lesson.said.right_answer.strip() else lesson.answers[:-1]
