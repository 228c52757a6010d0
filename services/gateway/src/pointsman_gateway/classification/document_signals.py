"""Recognizes by a sample of the documents' vectors (`VectorSketch`) which texts are about a task's documents.

A text from which the encoder stage abstains belongs to the task if it is nearly as similar to one of the documents as
the task's own examples are: questions on their subjects need not resemble the examples. A text that the encoder stage
assigns to the task is abstained from if nearly all examples are more similar: it may resemble them by its form alone.
Both limits follow from the examples, when the sketch arrives; the similarities of other tasks' examples show what says
nothing.
"""

import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pointsman_gateway.classification.model import ClassifierModel
from pointsman_gateway.classification.scores import Floats, Scores
from pointsman_gateway.domain import UNKNOWN, Labels, Vector
from pointsman_gateway.domain.vector_sketch import VectorSketch

log = logging.getLogger(__name__)

NOTE = "documents"
"""The first word of the notes about a sketch."""
RECOGNIZED, REJECTED, KNOWN = "is like", "is too unlike", "known are"
"""Words in the notes of a decision: for a sketch by which a text was recognized, for a sketch by which a text lost its
task, and for the sketches that several texts may have been compared with."""

SPREADS = 3.0
"""A text counts as unrelated to the documents if its similarity to them is at most the mean similarity of other tasks'
examples plus this many standard deviations."""
TYPICAL_SHARE = 0.6
"""Where a task's threshold lies between the limit by `SPREADS` (0) and the median of the task's own examples (1).

Both were chosen on questions about 28 XQuAD articles, Cranfield, CISI and Python's FAQ, half of whose subjects had
examples: of the texts that were abstained from, 71 % are recognized, and 0.2 % more of the out-of-scope texts are
accepted, 1 % with the worst collection.
"""

UNLIKE_SHARE = 0.02
"""A text is rejected if it is less similar than this share of the task's examples."""
MIN_EXAMPLES_TO_REJECT = 50
"""A task with fewer examples rejects no text, since `UNLIKE_SHARE` of them would be less than one example."""

_SKETCHES = re.compile(rf"{NOTE}: (?:{RECOGNIZED}|{REJECTED}|{KNOWN}) ([^()]+?)(?: \(.*\))?")

MIN_EXAMPLES = 5
"""Minimum number of examples of a task, and of all other tasks together. With fewer, documents are not compared."""
MAX_COMPARED = 1000
"""Maximum number of examples of a task, and of the other tasks together, that are compared with the documents."""


@dataclass(frozen=True, slots=True)
class TaskSignal:
    """The limits of a text's similarity to a collection (greatest cosine, -1 to 1) for one task.

    From `threshold` on, a text belongs to the task.
    """

    task: str
    threshold: float
    typical: float
    """The median similarity of the task's examples; greater than `threshold`."""
    least: float
    """Below this similarity a text does not belong to the task; -1, which is never, if the examples are too few."""

    def score(self, similarity: float) -> float:
        """Returns a text's in-distribution score: 0 at the threshold, at most 1, as for a typical example."""
        return min((similarity - self.threshold) / (self.typical - self.threshold), 1.0)


@dataclass(frozen=True, slots=True)
class DocumentSignal:
    """The sketch of one collection (a sample of its chunks' vectors), prepared to be compared with texts."""

    name: str
    vectors: Floats
    """The sampled vectors, (sampled chunks, dimensions), each of length 1."""
    tasks: tuple[TaskSignal, ...]
    """The tasks that answer from the collection and whose examples resemble it more than other tasks' examples do; at
    least one."""
    others: Floats
    """The vectors of other tasks' examples and of out-of-scope texts, (texts, dimensions)."""

    def similarity(self, vector: Vector) -> float:
        """Returns the greatest cosine, -1 to 1, of a text's unit `vector` with one of the sampled vectors."""
        return float(np.maximum.reduce(self.vectors @ vector))

    def is_nearer_to_others(self, vector: Vector, similarity: float) -> bool:
        """Returns whether the text is at least as similar to another task's example, or to an out-of-scope text, as to
        the documents. `vector` is the text's unit vector, and `similarity` its similarity to the documents.
        """
        return bool(np.maximum.reduce(self.others @ vector) >= similarity)


@dataclass(frozen=True, slots=True)
class DocumentSignals:
    """Corrects labels of the encoder stage by comparing texts with the sketches of all collections."""

    signals: tuple[DocumentSignal, ...]

    @property
    def note(self) -> str:
        """Returns a note that names all sketches, for a decision that is based on several texts, such as earlier turns.

        Any of these texts may have been compared with any of the sketches.
        """
        return f"{NOTE}: {KNOWN} {', '.join(signal.name for signal in self.signals)}"

    def reconsider(self, labels: Labels, vector: Vector) -> Labels:
        """Returns the encoder's `labels` of a text, corrected by the documents. `vector` is the text's unit vector.

        * If `labels` abstain and the text is similar to a task's documents, the result has this task.
        * If `labels` have a task and the text is unlike all documents of this task, the result is an abstention.
        * Otherwise the labels stay. Notes with the similarity to each compared sketch are added, except for a text that
          keeps its task.
        """
        return self._recognized(labels, vector) if labels.abstained else self._confirmed(labels, vector)

    def _recognized(self, labels: Labels, vector: Vector) -> Labels:
        """Of several tasks, the one that the classifier finds most probable gets the text; its probability is exchanged
        with the highest one.
        """
        notes, found = list(labels.notes), dict[str, float]()
        for signal in self.signals:
            similarity = signal.similarity(vector)
            scores = {task.task: task.score(similarity) for task in signal.tasks}
            is_like = max(scores.values()) >= 0 and not signal.is_nearer_to_others(vector, similarity)
            if is_like:
                found |= {task: max(score, found.get(task, 0.0)) for task, score in scores.items() if score >= 0}
            least = min(task.threshold for task in signal.tasks)
            notes.append(_note(RECOGNIZED if is_like else "is not like", signal, similarity, least))
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

    def _confirmed(self, labels: Labels, vector: Vector) -> Labels:
        own = [(signal, task) for signal in self.signals for task in signal.tasks if task.task == labels.task]
        compared = [(signal, task, signal.similarity(vector)) for signal, task in own]
        if not compared or any(similarity >= task.least for _, task, similarity in compared):
            return labels
        notes = [_note(REJECTED, signal, similarity, task.least) for signal, task, similarity in compared]
        return replace(
            labels,
            task=UNKNOWN,
            abstained=True,
            in_distribution_score=max(similarity - task.least for _, task, similarity in compared),
            notes=(*labels.notes, *notes),
        )


def fit_signals(
    sketches: Collection[VectorSketch], searchers: Mapping[str, Collection[str]], model: ClassifierModel
) -> DocumentSignals | None:
    """Prepares the sketches for comparisons; returns None if no sketch helps to recognize a task.

    The sketches must have been made with the encoder of `model`. `searchers` has, by collection, the tasks that answer
    from it. Equal arguments give equal results.
    """
    fitted = (_fit_signal(sketch, searchers[sketch.collection], model) for sketch in sketches)
    signals = tuple(signal for signal in fitted if signal is not None)
    return DocumentSignals(signals) if signals else None


def sketches_used(notes: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of the sketches on which a decision's task may depend. `notes` are those of the decision.

    The result is empty if the task does not depend on any sketch.
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
        similar = _similarities(examples, vectors)
        typical = float(np.median(similar))
        if len(examples) >= MIN_EXAMPLES and typical > least:
            can_reject = len(examples) >= MIN_EXAMPLES_TO_REJECT
            unlike = float(np.quantile(similar, UNLIKE_SHARE)) if can_reject else -1.0
            yield TaskSignal(task, least + TYPICAL_SHARE * (typical - least), typical, unlike)


def _note(verb: str, signal: DocumentSignal, similarity: float, threshold: float) -> str:
    return f"{NOTE}: {verb} {signal.name} ({similarity:.2f}, threshold {threshold:.2f})"


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
