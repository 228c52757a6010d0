"""Combines the results of cells: over seeds, between paths, and along the number of training rows."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from pointsman_scoring.intervals import Comparison, Interval, compare, holm, mean_interval

from benchmarks.experiment_public.cells import ALL_ROWS, BASELINES, FULL_FINE_TUNE, Cell, all_cells
from benchmarks.experiment_public.result_files import Answer, ResultFolder, Summary

CURVE_PATHS = ("lora", "nearest_8", "nearest", "tfidf")
COMPARED = {
    "lora_few_shot": ("lora", "nearest_8"),
    "raft_lora_rag": ("lora", "rag", "few_shot_rag"),
    "lora": ("nearest_8", "nearest"),
    FULL_FINE_TUNE: ("lora",),
    "nearest_8": ("nearest",),
}
"""By path, the paths that it has to beat: the parts of a hybrid, and simpler paths."""


def kind(path: str) -> str:
    """Returns the kind of a path ("prompt", "rag", "lora", "tuned" or "hybrid"), or "baseline" if no model answers."""
    if path in BASELINES:
        return "baseline"
    if path == FULL_FINE_TUNE:
        return "tuned"
    if "lora" in path:
        return "lora" if path == "lora" else "hybrid"
    return "rag" if path.endswith("rag") else "prompt"


@dataclass(frozen=True, slots=True)
class PathResult:
    """The results of a path with a number of training rows, over all seeds that have run."""

    path: str
    score: Interval
    """The mean over the seeds, with an interval from resampling test rows."""
    runs: Sequence[Summary]

    @property
    def usd_per_1000(self) -> float:
        return fmean(run.usd_per_1000 for run in self.runs)


@dataclass(frozen=True, slots=True)
class Difference:
    first: str
    second: str
    found: Comparison


class Evidence:
    """The stored results of the experiment with one base model: its scores, and the comparisons of its paths."""

    def __init__(self, results: ResultFolder) -> None:
        self.results = results
        self._answers: dict[Cell, list[Answer]] = {}

    def answers(self, cell: Cell) -> list[Answer]:
        if cell not in self._answers:
            self._answers[cell] = self.results.answers(cell)
        return self._answers[cell]

    def runs(self, name: str, path: str, rows: int = ALL_ROWS) -> list[Summary]:
        """Returns the cells that have run, one for each seed."""
        cells = [cell for cell in all_cells() if (cell.set, cell.path, cell.rows) == (name, path, rows)]
        return [summary for cell in cells if (summary := self.results.summary(cell))]

    def path(self, name: str, path: str, rows: int = ALL_ROWS) -> PathResult | None:
        """Returns the results of one path; None if no seed has run."""
        runs = self.runs(name, path, rows)
        if not runs:
            return None
        return PathResult(path, mean_interval(list(self._scores(runs).values())), runs)

    def paths(self, name: str) -> list[PathResult]:
        """Returns the results of a data set's paths with all training rows, the highest score first.

        Paths that have not run are left out.
        """
        known = dict.fromkeys(cell.path for cell in all_cells() if cell.set == name)
        found = [result for path in known if (result := self.path(name, path))]
        return sorted(found, key=lambda result: (-result.score.mean, result.usd_per_1000))

    def missing(self, name: str) -> list[str]:
        """Returns the paths planned for the set `name` that have no result with all of its training rows yet."""
        known = dict.fromkeys(cell.path for cell in all_cells() if cell.set == name)
        return [path for path in known if not self.runs(name, path)]

    def difference(self, name: str, first: str, second: str, rows: int = ALL_ROWS) -> Difference | None:
        """Returns how much better the path `first` scores than `second` on the same test rows of the set `name`.

        Returns None unless both have run with that many training rows.
        """
        one, other = self.runs(name, first, rows), self.runs(name, second, rows)
        if not one or not other:
            return None
        left, right = self._scores(one), self._scores(other)
        return Difference(first, second, compare(list(left.values()), [right[row] for row in left]))

    def comparisons(self, name: str) -> list[Difference]:
        """Compares the pairs of paths in `COMPARED` on the set `name`, without those of which one has not run.

        The p-values are corrected for the number of comparisons by Holm's method.
        """
        pairs = [(path, other) for path, others in COMPARED.items() for other in others]
        found = [difference for pair in pairs if (difference := self.difference(name, *pair))]
        adjusted = holm([difference.found.p_value for difference in found])
        return [replace(d, found=replace(d.found, p_value=p)) for d, p in zip(found, adjusted, strict=True)]

    def best(self, name: str, kinds: Sequence[str]) -> PathResult | None:
        """Returns the best path of these kinds that has run. It is chosen by test scores, so it describes what was
        measured and must not be used to choose.
        """
        return next((result for result in self.paths(name) if kind(result.path) in kinds), None)

    def _scores(self, runs: Sequence[Summary]) -> dict[str, float]:
        """Returns the score of each test row, by its id: the mean of the runs, which differ in their seeds."""
        by_row: dict[str, list[float]] = defaultdict(list)
        for run in runs:
            for answer in self.answers(run.cell):
                by_row[answer.row].append(answer.score)
        return {row: fmean(scores) for row, scores in sorted(by_row.items())}
