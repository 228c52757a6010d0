"""Recognizes questions on subjects of a task's documents, which need not resemble the task's examples.

A text from which the encoder stage abstains is compared with a sample of the documents' vectors (`VectorSketch`). It
belongs to the task if it is nearly as similar to one of them as the task's own examples are. What is similar enough
follows from the examples, when the sketch arrives: the similarities of other tasks' examples show what says nothing.
"""

import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pointsman_gateway.classification.model import ClassifierModel
from pointsman_gateway.classification.scores import Floats, Scores
from pointsman_gateway.domain import Labels, Vector
from pointsman_gateway.domain.vector_sketch import VectorSketch

log = logging.getLogger(__name__)

NOTE = "documents"
"""The first word of the notes about a sketch."""
RECOGNIZED, KNOWN = "is like", "known are"
"""Words in the notes about sketches: of the sketch by which a text was recognized, and of the sketches that several
texts were compared with."""

SPREADS = 3.0
"""An unrelated text is at most as similar as the mean of other tasks' examples, plus so many standard deviations."""
TYPICAL_SHARE = 0.6
"""A text is similar enough from this share of the way from there to the median of the task's own examples.

Both were chosen on questions about 28 XQuAD articles, Cranfield, CISI and Python's FAQ, half of whose subjects had
examples: of the texts that were abstained from, 71 % are recognized, and 0.2 % more of the out-of-scope texts are
accepted, 1 % with the worst collection.
"""

_SKETCHES = re.compile(rf"{NOTE}: (?:{RECOGNIZED}|{KNOWN}) ([^()]+?)(?: \(.*\))?")

MIN_EXAMPLES = 5
"""The least number of examples of a task, and of all other tasks together; with fewer there is no signal."""
MAX_COMPARED = 1000
"""Examples of a task, and of the other tasks together, that are compared with the documents."""


@dataclass(frozen=True, slots=True)
class TaskSignal:
    """From which similarity to a document on a text belongs to a task."""

    task: str
    threshold: float
    typical: float
    """The median similarity of the task's examples; greater than `threshold`."""

    def score(self, similarity: float) -> float:
        """Returns a text's in-distribution score: 0 at the threshold, at most 1, as for a typical example."""
        return min((similarity - self.threshold) / (self.typical - self.threshold), 1.0)


@dataclass(frozen=True, slots=True)
class DocumentSignal:
    """The sketch of one collection, prepared for comparisons."""

    name: str
    vectors: Floats
    """The sampled vectors, (sampled chunks, dimensions), each of length 1."""
    tasks: tuple[TaskSignal, ...]
    """The tasks that answer from the collection and whose examples resemble it more than other tasks' examples do; at
    least one."""
    others: Floats
    """The vectors of other tasks' examples and of out-of-scope texts, (texts, dimensions)."""

    def similarity(self, vector: Vector) -> float:
        """Returns the greatest cosine of a text's vector with one of the documents'."""
        return float(np.maximum.reduce(self.vectors @ vector))

    def is_nearer_to_others(self, vector: Vector, similarity: float) -> bool:
        """Returns whether an example of another task, or an out-of-scope text, is at least as similar."""
        return bool(np.maximum.reduce(self.others @ vector) >= similarity)


@dataclass(frozen=True, slots=True)
class DocumentSignals:
    """The signals of all collections; the result for a text depends on nothing else."""

    signals: tuple[DocumentSignal, ...]

    @property
    def note(self) -> str:
        """Returns a note for decisions on several texts, which may depend on comparisons of any of them."""
        return f"{NOTE}: {KNOWN} {', '.join(signal.name for signal in self.signals)}"

    def reconsider(self, labels: Labels, vector: Vector) -> Labels:
        """Returns the labels of a text from which the classifier abstains, with a task if it is like documents.

        `vector` is the encoder's. Of several tasks, the one that the classifier finds most probable gets the text; its
        probability is exchanged with the highest one. A note for each sketch says how similar the text is to it.
        """
        notes, found = list(labels.notes), dict[str, float]()
        for signal in self.signals:
            similarity = signal.similarity(vector)
            scores = {task.task: task.score(similarity) for task in signal.tasks}
            is_like = max(scores.values()) >= 0 and not signal.is_nearer_to_others(vector, similarity)
            if is_like:
                found |= {task: max(score, found.get(task, 0.0)) for task, score in scores.items() if score >= 0}
            least = min(task.threshold for task in signal.tasks)
            verb = RECOGNIZED if is_like else "is not like"
            notes.append(f"{NOTE}: {verb} {signal.name} ({similarity:.2f}, threshold {least:.2f})")
        if not found:
            return replace(labels, notes=tuple(notes))
        best = next(task for task, _ in labels.probabilities if task in found)
        return replace(
            labels,
            task=best,
            abstained=False,
            probabilities=_with_first(labels.probabilities, best),
            in_distribution_score=found[best],
            notes=tuple(notes),
        )


def fit_signals(
    sketches: Collection[VectorSketch], searchers: Mapping[str, Collection[str]], model: ClassifierModel
) -> DocumentSignals | None:
    """Returns the signals of the sketches, all by the model's own encoder; None if none says anything.

    `searchers` are the tasks that answer from each collection. Equal arguments give equal results.
    """
    fitted = (_fit_signal(sketch, searchers[sketch.collection], model) for sketch in sketches)
    signals = tuple(signal for signal in fitted if signal is not None)
    return DocumentSignals(signals) if signals else None


def sketches_used(notes: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of the sketches on which a decision's task may depend, from its notes.

    A decision without such a note is the same without any sketch.
    """
    found = (_SKETCHES.fullmatch(note) for note in notes)
    return tuple(dict.fromkeys(name for match in found if match for name in match[1].split(", ")))


def _fit_signal(sketch: VectorSketch, tasks: Collection[str], model: ClassifierModel) -> DocumentSignal | None:
    vectors = _directions(sketch)
    others = [rows for task, rows in model.vectors.items() if task not in tasks]
    if not len(vectors) or sum(map(len, others)) < MIN_EXAMPLES:
        return None
    compared = _at_most(np.concatenate(others), MAX_COMPARED)
    unrelated = _similarities(compared, vectors)
    least = float(unrelated.mean() + SPREADS * unrelated.std())
    of_tasks = tuple(_task_signals(tasks, least, vectors, model))
    log.info(
        "sketch %s of %d vectors recognizes: %s",
        sketch.name,
        len(vectors),
        ", ".join(f"{one.task} from a similarity of {one.threshold:.2f}" for one in of_tasks) or "no task",
    )
    if not of_tasks:
        return None
    out_of_scope = model.encoder.out_of_scope if model.encoder else compared[:0]
    rivals = np.ascontiguousarray(np.concatenate([compared, out_of_scope]), np.float32)
    return DocumentSignal(sketch.name, vectors, of_tasks, rivals)


def _task_signals(
    tasks: Collection[str], least: float, vectors: Floats, model: ClassifierModel
) -> Iterator[TaskSignal]:
    for task in sorted(tasks):
        examples = _at_most(model.vectors[task], MAX_COMPARED)
        typical = float(np.median(_similarities(examples, vectors)))
        if len(examples) >= MIN_EXAMPLES and typical > least:
            yield TaskSignal(task, least + TYPICAL_SHARE * (typical - least), typical)


def _directions(sketch: VectorSketch) -> Floats:
    rows = np.frombuffer(sketch.vectors, np.int8).reshape(-1, sketch.dimensions).astype(np.float32)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1))


def _similarities(texts: Floats, documents: Floats) -> Scores:
    """Returns the greatest cosine of each text with a document, (texts,)."""
    return np.asarray((texts @ documents.T).max(axis=1), np.float64)


def _at_most(rows: Floats, count: int) -> Floats:
    """Returns at most `count` of the rows, evenly spaced."""
    return rows[:: max(1, -(-len(rows) // count))]


def _with_first(probabilities: tuple[tuple[str, float], ...], task: str) -> tuple[tuple[str, float], ...]:
    """Returns the probabilities, most likely first, after `task` and the first one have exchanged theirs."""
    tasks, shares = [name for name, _ in probabilities], [share for _, share in probabilities]
    at = tasks.index(task)
    tasks[0], tasks[at] = tasks[at], tasks[0]
    return tuple(zip(tasks, shares, strict=True))
