"""Measures what `auto` is worth on the mixed stream of the experiment on public data, without an engine.

The stream has the sets CLINC150, SNIPS and XQuAD, each as one broad task, and requests that belong to none. The paths
of the experiment answered each of its requests at temperature 0, and their answers are stored. So a choice's score is
the stored score of the chosen path: the best one of the task's paths on validation rows, as in
`benchmarks/experiment_public/mixed.py`. An abstention is right if the request belongs to no task, and a task that is
not the request's own counts as wrong.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from pointsman_embedding import MiniLM, StaticModel
from pointsman_gateway.classification.cascade import CascadeClassifier
from pointsman_gateway.classification.document_signals import fit_signals
from pointsman_gateway.classification.fitting.fit import fit_classifier
from pointsman_gateway.classification.model import FitSettings
from pointsman_gateway.domain import Labels
from threadpoolctl import threadpool_limits

from benchmarks.experiment_public import mixed, sets
from benchmarks.experiment_public.cells import Cell
from benchmarks.experiment_public.folder import BASE_MODEL
from benchmarks.experiment_public.measure import RESULTS
from benchmarks.experiment_public.result_files import ResultFolder
from benchmarks.requests.documents import COLLECTION, TASK, make_sketch

BEST = {"clinc150": "lora", "snips": "lora", "xquad": "raft_lora_rag"}
"""By task, the path that the validation rows chose (`mixed-validation.json`)."""
WITH_INTENTS = ("clinc150", "snips")
MAX_TAKEN = 0.25
"""The share of out-of-scope validation texts that may get a task; `target_coverage` is the highest that keeps it."""
COVERAGES = (0.95, 0.94, 0.93, 0.92, 0.91, 0.9)
"""From the default downwards."""


@dataclass(frozen=True)
class Result:
    """Shares from 0 to 1."""

    target_coverage: float
    auto: float
    """The mean score of the stream."""
    best_fixed: float
    """The same for a caller who knows each request's task, and takes its best path."""
    taken: float
    """Of CLINC150's 1,000 out-of-scope test texts."""
    right_by_task: Mapping[str, float]
    """The share of the requests that get their own task."""

    def __str__(self) -> str:
        by_task = ", ".join(f"{task} {100 * share:.1f}" for task, share in self.right_by_task.items())
        of_best = 100 * self.auto / self.best_fixed
        return (
            f"{self.target_coverage:8.2f} {100 * self.auto:6.1f} {100 * self.best_fixed:6.1f} {of_best:8.1f} "
            f"{100 * self.taken:6.1f}   {by_task}"
        )


class MixedStream:
    def __init__(self, data: Path) -> None:
        public = {name: sets.load_set(name, data) for name in sets.LOADERS}
        self.training = {
            name: one.training_rows(Cell(name, BEST[name]).rows, mixed.SEED) for name, one in public.items()
        }
        self.paragraphs = [*public[TASK].paragraphs.values()]
        self._rows = mixed.stream(public, "test", mixed.TEST_ROWS)
        self._outside = [str(row["text"]) for row in mixed.out_of_scope(data)]
        stored = ResultFolder(RESULTS / BASE_MODEL)
        self._scores = {
            f"{name}-{answer.row}": answer.score
            for name, path in BEST.items()
            for answer in stored.answers(Cell(name, path, seed=mixed.SEED))
        }

    def result(self, classifier: CascadeClassifier, target_coverage: float) -> Result:
        found = {name: self._of_task(name, classifier) for name in BEST}
        outside = [classifier.classify_now(text).abstained for text in self._outside]
        unknown = fmean(outside[: mixed.TEST_ROWS])  # the stream's part of them
        shares = mixed.SHARES
        return Result(
            target_coverage,
            sum(shares[name] * score for name, (score, _, _) in found.items()) + shares["unknown"] * unknown,
            sum(shares[name] * best for name, (_, best, _) in found.items()) + shares["unknown"],
            1 - fmean(outside),
            {name: right for name, (_, _, right) in found.items()},
        )

    def _of_task(self, name: str, classifier: CascadeClassifier) -> tuple[float, float, float]:
        """Returns the mean score of `auto`, that of the best path, and the share of requests that get their task."""
        rows = [row for row in self._rows if row["task"] == name]
        best = [self._scores[row["id"]] for row in rows]
        is_own = [_is_of(name, classifier.classify_now(str(row["text"]))) for row in rows]
        return fmean(score * own for score, own in zip(best, is_own, strict=True)), fmean(best), fmean(is_own)


def _is_of(task: str, labels: Labels) -> bool:
    return labels.task == task and not labels.abstained


async def measure(data: Path, models: Path) -> dict[str, Any]:
    """Prints the results without and with what the documentation advises for broad tasks, and returns them.

    `data` is the folder of the public sets. Raises FileNotFoundError if it lacks one.
    """
    static, encoder = StaticModel.load(models), MiniLM.load(models)
    stream = MixedStream(data)
    clinc = json.loads((data / "routing/clinc150/data_full.json").read_text("utf-8"))
    outside, validation = ([text for text, _ in clinc[part]] for part in ("oos_train", "oos_val"))
    examples = {name: [str(row["text"]) for row in rows] for name, rows in stream.training.items()}
    intents = {name: [str(row["label"]) for row in stream.training[name]] for name in WITH_INTENTS}
    print(f"{'percent':34} {'coverage':>8} {'auto':>6} {'best':>6} {'of best':>8} {'taken':>6}   right by task")
    with threadpool_limits(limits=1):  # as in the gateway
        sketch = await make_sketch(stream.paragraphs, models, encoder)

        def fitted(target_coverage: float, out_of_scope: Sequence[str], **more: Any) -> CascadeClassifier:
            settings = FitSettings(target_coverage=target_coverage)
            model = fit_classifier(examples, out_of_scope, static, encoder, settings, **more)
            signals = fit_signals([sketch], {COLLECTION: {TASK}}, model)
            return CascadeClassifier(model, static, encoder).with_documents(signals)

        figures = {}
        for name, advised in (("examples alone", {}), ("with intents", {"intents": intents})):
            figures[name] = stream.result(fitted(COVERAGES[0], (), **advised), COVERAGES[0])
            print(f"{name:34} {figures[name]}", flush=True)
        for coverage in COVERAGES:
            classifier = fitted(coverage, outside, intents=intents)
            if fmean(not classifier.classify_now(text).abstained for text in validation) <= MAX_TAKEN:
                break
        name = "intents and out-of-scope examples"
        figures[name] = stream.result(classifier, coverage)
        print(f"{name:34} {figures[name]}", flush=True)
    return {name: asdict(result) for name, result in figures.items()}
