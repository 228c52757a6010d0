"""Measures how often a certificate's verdict is wrong, and, if a verdict is refused, whether the number of rows that it
asks for suffices.

Twenty kinds of tasks are simulated, whose paths have known true scores and costs, so that the best path is known. Each
run draws rows, and asks for a verdict. If it is refused, rows are added up to the number that it asks for, and a
verdict is requested again. A verdict is right if it names the cheapest path whose true score is good enough. Paths
whose scores differ by less than the stated difference, or whose costs differ by less than the price change that a
certificate allows, count as equally right. The last line of the output is JSON. The exit status is 1 if more than 5 %
of the verdicts of a kind are wrong, or the number of rows suffices in fewer than 80 % of its runs.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray
from pointsman_cli.certificate.verdict import Candidate, Precision, ScoreVerdict, decide
from scipy.special import ndtr  # type: ignore[import-untyped]  # it ships no types

MAX_WRONG = 0.05
POWER = 0.8
COST_TOLERANCE = 0.2
COST_SPREAD = 0.4
"""Standard deviation of the logarithm of a row's cost; half of it is common to all paths."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of task: its paths, from the cheapest to the dearest, and the number of rows at the start."""

    name: str
    means: tuple[float, ...]
    """The true mean score of each path."""
    rows: int
    difference: float = 0.05
    """The difference of scores that the certificate states as unimportant."""
    costs: tuple[float, ...] = ()
    """The true mean cost of each path; by default each costs twice as much as the one before."""
    alike: float = 0.7
    """How much the paths agree on which rows are hard: from 0 (not at all) to 1 (completely)."""
    grades: int = 1
    """Scores are multiples of 1 / `grades`; 0: any number."""
    floor: float | None = None
    """The required score; None if there is none."""
    unscored: float = 0.0
    """The share of answers that the judge gives no score."""
    subset: bool = False
    """Whether the first path is wrong on some of the rows on which the others are right, and never the other way
    round."""

    @property
    def true_costs(self) -> tuple[float, ...]:
        return self.costs or tuple(2.0**place for place in range(len(self.means)))

    def right(self) -> set[str]:
        """Returns the paths that are right verdicts; "" among them means that none of the paths is good enough."""
        best, costs = max(self.means), self.true_costs
        needed = best - self.difference if self.floor is None else self.floor
        enough = [mean >= needed - 1e-9 for mean in self.means]
        surely = [mean >= (best if self.floor is None else self.floor + self.difference) for mean in self.means]
        dearest = min((cost for cost, sure in zip(costs, surely, strict=True) if sure), default=float("inf"))
        right = {
            str(place) for place, cost in enumerate(costs) if enough[place] and cost <= dearest * (1 + COST_TOLERANCE)
        }
        return right if right and dearest < float("inf") else {*right, ""}


KINDS = (
    Kind("a dear path is far better", (0.55, 0.85), 60),
    Kind("a dear path is better", (0.70, 0.80), 150),
    Kind("a dear path is better by little more than the difference", (0.745, 0.80), 300),
    Kind("a dear path is better by half of it", (0.775, 0.80), 300),
    Kind("both are equal", (0.80, 0.80), 300),
    Kind("both are equal, few rows", (0.80, 0.80), 25),
    Kind("the cheap path is better", (0.82, 0.80), 200),
    Kind("both are nearly perfect", (0.985, 0.985), 80),
    Kind("rare errors of the cheap path alone", (0.949, 1.0), 60, subset=True),
    Kind("both are poor", (0.06, 0.12), 200, difference=0.03),
    Kind("three paths, the middle one is best", (0.60, 0.78, 0.78), 120),
    Kind("four paths, each better", (0.55, 0.65, 0.75, 0.85), 200),
    Kind("five equal paths", (0.75,) * 5, 200, difference=0.08),
    Kind("six paths, the dearest is best", (0.5, 0.6, 0.6, 0.62, 0.65, 0.8), 150),
    Kind("graded scores, equal", (0.70, 0.70), 150, grades=4),
    Kind("graded scores, better", (0.62, 0.70), 100, grades=0),
    Kind("answers that nobody could score", (0.65, 0.80), 150, unscored=0.15),
    Kind("nearly equal costs", (0.80, 0.80, 0.60), 250, costs=(1.0, 1.1, 1.2)),
    Kind("a required score that the second reaches", (0.72, 0.90, 0.95), 100, floor=0.8),
    Kind("a required score that none reaches", (0.60, 0.74), 150, floor=0.85),
)


@dataclass(frozen=True, slots=True)
class KindFinding:
    """The results of the runs of one kind."""

    kind: str
    rows: int
    difference: float
    decided: float
    """The share of the runs with a verdict on the rows at the start."""
    wrong: float
    """The share of the runs with a wrong verdict, on the rows at the start or on more rows."""
    sufficient: float | None
    """Of the runs whose first verdict was refused, the share with a verdict at the number of rows that was asked for;
    None if none was refused."""
    named_rows: float | None
    """The median number of rows that refused verdicts ask for."""
    sufficient_rows: int | None
    """The number of rows at which 80 % of other runs have a verdict, as a comparison; None if it was not computed."""


class Rows:
    """The rows of one run, to which more can be added."""

    def __init__(self, kind: Kind, draw: np.random.Generator) -> None:
        self._kind, self._draw = kind, draw
        self._scores: list[Floats] = [np.empty(0) for _ in kind.means]
        self._costs = [0.0] * len(kind.means)

    def add_up_to(self, rows: int) -> None:
        more = rows - len(self._scores[0])
        if more > 0:
            drawn = list(self._draw_scores(more))
            self._scores = [np.concatenate(both) for both in zip(self._scores, drawn, strict=True)]
            self._costs = [
                cost + more_cost for cost, more_cost in zip(self._costs, self._draw_costs(more), strict=True)
            ]

    def verdict(self, precision: Precision) -> ScoreVerdict:
        candidates = [Candidate(str(place), scores.tolist()) for place, scores in enumerate(self._scores)]
        order = sorted(range(len(candidates)), key=self._costs.__getitem__)
        return decide([candidates[place] for place in order], precision)

    def _draw_scores(self, rows: int) -> Iterator[Floats]:
        """Yields each path's scores, not-a-number where an answer has none. A row that is hard for one path is often
        hard for all.
        """
        common, kind = self._draw.standard_normal(rows), self._kind
        for place, mean in enumerate(kind.means):
            own = self._draw.standard_normal(rows) * (not kind.subset)
            alike = 1.0 if kind.subset else kind.alike
            latent = ndtr(alike**0.5 * common + (1 - alike) ** 0.5 * own)
            scores = self._graded(latent, mean)
            if kind.unscored and place:
                scores[self._draw.random(rows) < kind.unscored] = np.nan
            yield scores

    def _graded(self, latent: Floats, mean: float) -> Floats:
        """Returns scores with this mean that decrease with the row's difficulty, which is uniform from 0 to 1."""
        if self._kind.grades == 1:
            return (latent < mean).astype(np.float64)
        scores: Floats = (1 - latent) ** ((1 - mean) / mean)  # its mean is `mean`
        if not self._kind.grades:
            return scores
        steps = scores * self._kind.grades
        rounded: Floats = np.floor(steps) + (self._draw.random(len(scores)) < steps % 1)
        return rounded / self._kind.grades

    def _draw_costs(self, rows: int) -> Iterator[float]:
        common = self._draw.standard_normal(rows)
        for cost in self._kind.true_costs:
            spread = COST_SPREAD * (common + self._draw.standard_normal(rows)) / 2**0.5
            yield float(np.sum(cost * np.exp(spread - COST_SPREAD**2 / 2)))


def run_kind(kind: Kind, runs: int, seed: int, compare: bool = False) -> KindFinding:
    """Simulates this number of runs. The result does not depend on which other kinds are simulated."""
    precision = Precision(kind.difference, MAX_WRONG, POWER, kind.floor)
    right, decided, wrong, named, enough = kind.right(), 0, 0, [], 0
    for number in range(runs):
        rows = Rows(kind, np.random.default_rng([seed, number, *kind.name.encode()]))
        rows.add_up_to(kind.rows)
        verdict = rows.verdict(precision)
        decided += verdict.is_decided
        if not verdict.is_decided:
            named.append(verdict.rows_needed)
            rows.add_up_to(verdict.rows_needed)
            verdict = rows.verdict(precision)
            enough += verdict.is_decided
        wrong += verdict.is_decided and verdict.path not in right
    return KindFinding(
        kind=kind.name,
        rows=kind.rows,
        difference=kind.difference,
        decided=decided / runs,
        wrong=wrong / runs,
        sufficient=enough / len(named) if named else None,
        named_rows=median(named) if named else None,
        sufficient_rows=sufficient_rows(kind, precision, runs, seed) if compare and named else None,
    )


def sufficient_rows(kind: Kind, precision: Precision, runs: int, seed: int) -> int:
    """Returns the number of rows, to a precision of a fifth, at which the share POWER of new runs has a verdict."""
    rows = float(kind.rows)
    while True:
        decided = 0
        for number in range(runs):
            fresh = Rows(kind, np.random.default_rng([seed, 1, number, *kind.name.encode()]))
            fresh.add_up_to(round(rows))
            decided += fresh.verdict(precision).is_decided
        if decided >= POWER * runs:
            return round(rows)
        rows *= 1.2


def table(found: Sequence[KindFinding]) -> str:
    """Returns the findings as a table in Markdown."""
    lines = [
        "| kind of task | difference | rows at first | decided at once | wrong | rows named (median) | they suffice "
        "| enough for 80 % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        named = "" if one.named_rows is None else f"{one.named_rows:,.0f}"
        suffices = "" if one.sufficient is None else f"{one.sufficient:.1%}"
        needed = "" if one.sufficient_rows is None else f"{one.sufficient_rows:,}"
        cells = (one.kind, f"{one.difference:g}", f"{one.rows}", f"{one.decided:.1%}", f"{one.wrong:.1%}")
        lines.append(f"| {' | '.join((*cells, named, suffices, needed))} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="simulate only kinds with this text in the name, as in floor")
    parser.add_argument("--compare", action="store_true", help="also search how many rows are enough for 80 %%")
    options = parser.parse_args()
    chosen = [kind for kind in KINDS if options.only in kind.name]
    found = [run_kind(kind, options.runs, options.seed, options.compare) for kind in chosen]
    suffices = [one.sufficient for one in found if one.sufficient is not None]
    kept = all(one.wrong <= MAX_WRONG for one in found) and all(share >= POWER for share in suffices)
    print(table(found))
    print(json.dumps({**vars(options), "kept": kept, "findings": [asdict(one) for one in found]}))
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
