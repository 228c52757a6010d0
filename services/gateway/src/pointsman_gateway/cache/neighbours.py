"""The vectors of earlier questions, as far as this gateway has heard of them."""

import base64
import binascii
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pointsman_gateway.domain import Vector

MOST = 256
"""Questions that are remembered of one partition, the newest."""

MOST_PARTITIONS = 64
"""A copy of each of these is kept here: at most 25 MB with vectors of 384 dimensions."""


@dataclass(frozen=True, slots=True)
class Question:
    place: str
    """In the partition's stream in Redis."""
    answer: str
    """Its answer's digest."""
    vector: Vector


@dataclass(slots=True)
class _Partition:
    questions: list[Question] = field(default_factory=list)
    matrix: Vector = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    last: str = ""


class Neighbours:
    """Copies of the partitions that were used last; each is brought up to date by what is new in Redis."""

    def __init__(self) -> None:
        self._partitions: OrderedDict[str, _Partition] = OrderedDict()

    def last_place(self, partition: str) -> str:
        """After which the news begins; empty where nothing is known yet."""
        known = self._partitions.get(partition)
        return known.last if known else ""

    def hear(self, partition: str, news: Sequence[Question]) -> None:
        """Two requests may bring the same news."""
        known = self._partitions.setdefault(partition, _Partition())
        self._partitions.move_to_end(partition)
        if len(self._partitions) > MOST_PARTITIONS:
            self._partitions.popitem(last=False)
        after = [question for question in news if _order(question.place) > _order(known.last)]
        if after:
            known.last = after[-1].place
            # Of another length, one is another model's.
            known.questions = [
                question
                for question in [*known.questions, *after][-MOST:]
                if len(question.vector) == len(after[-1].vector)
            ]
            known.matrix = np.stack([question.vector for question in known.questions])

    def nearest(self, partition: str, vector: Vector, threshold: float) -> str:
        """The digest of the answer to the question whose cosine is the greatest, and over the threshold; else empty."""
        known = self._partitions.get(partition)
        if known is None or not known.questions or known.matrix.shape[1] != len(vector):
            return ""
        cosines = known.matrix @ vector
        best = int(np.argmax(cosines))
        return known.questions[best].answer if cosines[best] >= threshold else ""

    def forget(self, partition: str, answer: str) -> None:
        """The answer is there no longer."""
        known = self._partitions.get(partition)
        if known:
            known.questions = [question for question in known.questions if question.answer != answer]
            rows = [question.vector for question in known.questions]
            known.matrix = np.stack(rows) if rows else np.zeros((0, 0), np.float32)


def write_vector(vector: Vector) -> str:
    return base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode()


def read_question(place: str, fields: dict[str, str]) -> Question | None:
    """None where it is none."""
    try:
        vector = np.frombuffer(base64.b64decode(fields["vector"], validate=True), "<f4")
        return Question(place, fields["answer"], vector)
    except (KeyError, ValueError, binascii.Error):
        return None


def _order(place: str) -> tuple[int, int]:
    """Of a place in a stream ("1526919030474-55")."""
    milliseconds, _, number = place.partition("-")
    return int(milliseconds or 0), int(number or 0)
