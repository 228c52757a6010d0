"""Recognizes which texts are about a task's documents, by a sample of the documents' vectors (a `VectorSketch`).

If the encoder stage abstains from a text, the text gets a task if it is nearly as similar to one of the task's
documents as the task's own examples are. For example, a question about a document's subject need not resemble the
examples. If the encoder stage assigns a text to a task, the assignment is withdrawn if nearly all examples of the task
are more similar to the documents: the text may resemble the examples by its form alone. Both limits are computed from
the examples when a sketch arrives; the examples of other tasks show which similarities mean nothing.
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
"""The first word of the notes in a decision about a sketch (a sample of a document collection's vectors)."""
RECOGNIZED, REJECTED, KNOWN = "is like", "is too unlike", "known are"
"""Words by which the notes of a decision name sketches (samples of documents' vectors).

In order, the words mean: the text got a task because it is similar to the sketch's documents; the text lost its task
because it is not; one of several texts may have been compared with the sketch.
"""

SPREADS = 3.0
"""A text counts as unrelated to the documents if its similarity to them is at most the mean similarity of other tasks'
examples plus this many standard deviations."""
TYPICAL_SHARE = 0.6
"""A task's threshold lies between the limit for unrelated texts (see `SPREADS`) and the median similarity of the task's
own examples, at this share of the distance between the two.

`TYPICAL_SHARE` and `SPREADS` were chosen on questions about 28 XQuAD articles, Cranfield, CISI and Python's FAQ, half
of whose subjects had examples. 71 % of the texts from which the encoder abstains are recognized. 0.2 % more of the
out-of-scope texts are accepted, and 1 % more with the worst collection.
"""

UNLIKE_SHARE = 0.02
"""A text loses its task if it is less similar to the documents than all but this share of the task's examples."""
MIN_EXAMPLES_TO_REJECT = 50
"""With fewer examples than this, no text loses the task, since `UNLIKE_SHARE` of them would be less than one
example.
"""

_SKETCHES = re.compile(rf"{NOTE}: (?:{RECOGNIZED}|{REJECTED}|{KNOWN}) ([^()]+?)(?: \(.*\))?")

MIN_EXAMPLES = 5
"""Minimum number of examples of a task, and of all other tasks together. With fewer, documents are not compared."""
MAX_COMPARED = 1000
"""Maximum number of examples of a task, and of the other tasks together, that are compared with the documents."""


@dataclass(frozen=True, slots=True)
class TaskSignal:
    """Limits for one task: how similar a text must be to the documents of a collection.

    A similarity is the greatest cosine, -1 to 1, of the text's vector with a sampled vector of the documents. A text
    whose similarity is at least `threshold` belongs to the task.
    """

    task: str
    threshold: float
    typical: float
    """The median similarity of the task's examples to the documents; greater than `threshold`."""
    least: float
    """A text with a similarity below this limit does not belong to the task. It is -1 if the task has too few examples
    to reject a text.
    """

    def score(self, similarity: float) -> float:
        """Returns the in-distribution score of a text with this similarity: 0 at the threshold, and 1, the maximum, at
        the median of the task's examples.
        """
        return min((similarity - self.threshold) / (self.typical - self.threshold), 1.0)


@dataclass(frozen=True, slots=True)
class DocumentSignal:
    """The sketch of one collection (a sample of its chunks' vectors), prepared to be compared with texts."""

    name: str
    vectors: Floats
    """The sampled vectors, (sampled chunks, dimensions), each of length 1."""
    tasks: tuple[TaskSignal, ...]
    """The tasks that answer from the collection and are recognized by it; at least one. The examples of such a task are
    clearly more similar to the documents than other tasks' examples are.
    """
    others: Floats
    """The vectors that a text is compared with as an alternative to the documents, (texts, dimensions): those of other
    tasks' examples and of out-of-scope texts.
    """

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
    """Corrects the labels of the encoder stage by comparing texts with samples of all document collections."""

    signals: tuple[DocumentSignal, ...]

    @property
    def note(self) -> str:
        """Returns a note that names all sketches (samples of document collections).

        It is added to a decision that is based on several texts, such as earlier turns, since each of the texts may
        have been compared with any sketch.
        """
        return f"{NOTE}: {KNOWN} {', '.join(signal.name for signal in self.signals)}"

    def reconsider(self, labels: Labels, vector: Vector) -> Labels:
        """Returns the encoder's `labels` of a text, corrected by the documents. `vector` is the text's unit vector.

        * If `labels` abstain and the text is similar to a task's documents, the result has this task.
        * If `labels` have a task and the text is unlike all documents of this task, the result is an abstention.
        * In other cases the task or the abstention stays.

        The result's notes give the similarity to each compared sketch, except for a text that keeps its task.
        """
        return self._recognized(labels, vector) if labels.abstained else self._confirmed(labels, vector)

    def _recognized(self, labels: Labels, vector: Vector) -> Labels:
        """Returns labels with a task whose documents the text resembles; the abstention with notes if there is none.

        Of several such tasks the text gets the one that the classifier finds most probable. Its probability is
        exchanged with the highest probability.
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
    """Prepares sketches (samples of document collections) for comparisons with texts.

    The sketches must have been made with the encoder of `model`. `searchers` has, for each collection, the tasks that
    answer from it. Returns None if no sketch helps to recognize a task. Equal arguments give equal results.
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
    """Returns the probabilities after `task` and the most probable task have exchanged theirs, most probable first."""
    tasks, shares = [name for name, _ in probabilities], [share for _, share in probabilities]
    at = tasks.index(task)
    tasks[0], tasks[at] = tasks[at], tasks[0]
    return tuple(zip(tasks, shares, strict=True))
