"""Measures how often a comparison of live ratings is wrong if it is evaluated after each rating.

Three decisions that are made while data comes in are simulated, with fixed-sample intervals and with the confidence
sequences that decide in Pointsman: a path counts as good enough (`best_value`), one of two paths counts as better
(`pointsman advise --live`), or a canary is rolled back. The last line of the output is JSON. The exit status is 1 if
decisions by confidence sequences are wrong more often than stated.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pointsman_lora_server.adapters.promotion import ALPHA as CANARY_ALPHA
from pointsman_lora_server.domain import CanaryTerms
from pointsman_servicekit.confidence_sequences import BETS, WEIGHTS
from pointsman_servicekit.statistics import one_sided_z, two_sided_z

GRADES = 2
"""Ratings are counted in halves: a graded rating is 0, 1/2 or 1."""

ALPHA = 0.05
FLOOR = 0.7
MIN_SAMPLES = 20
CANARY_Z = 2.58
"""Half-width, in standard errors, of the fixed-sample limits that decided on canaries before confidence sequences
did."""

DECIDED = 0.8
"""The share of streams that must be decided; the number of observations that this takes is reported."""

GROWTHS = np.expm1(BETS)
PRECISION = 1e-6
NEVER = np.iinfo(np.int64).max
CHUNK = 250
"""Number of streams that are simulated together, to bound the memory."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Observed = tuple[Ints, Ints]
"""Sums in halves, and counts, of observations: each by stream (row) and evaluation (column)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The results for one decision, over all streams."""

    decision: str
    ratings: str
    """The kind of ratings: "binary" or "graded"."""
    difference: float
    """The true difference, from which follows which decision is right."""
    stated: float
    """The largest share of wrong decisions that the limits promise."""
    wrong_fixed: float | None
    wrong_anytime: float | None
    """The share of the streams in which a wrong decision was made at any time; None if no decision would be wrong."""
    rows_fixed: int | None
    rows_anytime: int | None
    """Number of observations (of each path; for canaries, of both versions) after which 80 % of the streams were
    decided correctly; None if they never were."""


class WilsonLimits:
    """Lower limits that hold for a single evaluation: `statistics.wilson_interval` for arrays."""

    def __init__(self, z: float) -> None:
        self._z = z

    def lower(self, sums: Ints, counts: Ints) -> Floats:
        number = np.maximum(counts, 1)
        mean, weight = sums / GRADES / number, self._z**2 / number
        half = self._z / (1 + weight) * np.sqrt(mean * (1 - mean) / number + weight / (4 * number))
        return np.where(counts > 0, (mean + weight / 2) / (1 + weight) - half, 0.0)


class SequenceLimits:
    """Lower limits that hold at any time: `confidence_sequences.lower_limit` for arrays; limits for equal sums are
    computed once.
    """

    def __init__(self, alpha: float, looks: int) -> None:
        """Takes the error probability and the largest number of ratings."""
        self._alpha, self._width = alpha, GRADES * looks + 1
        self._known = np.full((looks + 1) * self._width, np.nan, dtype=np.float32)

    def lower(self, sums: Ints, counts: Ints) -> Floats:
        where = counts * self._width + sums
        is_asked = np.zeros(len(self._known), dtype=bool)
        is_asked[where] = True
        missing = np.flatnonzero(is_asked & np.isnan(self._known))
        self._known[missing] = self._computed(missing % self._width, missing // self._width)
        found: Floats = self._known[where].astype(np.float64)
        return found

    def _computed(self, sums: Ints, counts: Ints) -> Floats:
        """Computes the limits by Newton's method; a step that leaves the bracket is replaced by bisection."""
        found = np.zeros(len(sums))
        open_: Ints = np.flatnonzero(sums > 0)
        counts, mean = counts[open_], sums[open_] / GRADES / counts[open_]
        low, high, tested = np.zeros_like(mean), mean.copy(), mean / (1 + 9 / counts)
        while open_.size:
            above, slope = self._log_evidence(tested, mean, counts)
            low, high = np.where(above >= 0, tested, low), np.where(above >= 0, high, tested)
            step = tested - above / slope
            step = np.where((step > low) & (step < high), step, (low + high) / 2)
            moves = np.abs(step - tested) > PRECISION
            found[open_] = step
            open_, counts, mean = open_[moves], counts[moves], mean[moves]
            low, high, tested = low[moves], high[moves], step[moves]
        return found

    def _log_evidence(self, tested: Floats, mean: Floats, counts: Ints) -> tuple[Floats, Floats]:
        """Returns by how much the logarithm of the evidence is above the threshold, and its derivative."""
        gains = [counts * (bet * mean - np.log1p(tested * growth)) for bet, growth in zip(BETS, GROWTHS, strict=True)]
        largest = np.max(gains, axis=0)  # subtracted, so that exp cannot overflow
        total, slope = np.zeros_like(mean), np.zeros_like(mean)
        for growth, weight, gain in zip(GROWTHS, WEIGHTS, gains, strict=True):
            part = weight * np.exp(gain - largest)
            total += part
            slope -= part * counts * growth / (1 + tested * growth)
        return largest + np.log(total) - np.log(1 / self._alpha), slope / total


class Limits(Protocol):
    def lower(self, sums: Ints, counts: Ints) -> Floats: ...


def min_differences(limits: Limits, first: Observed, second: Observed) -> Floats:
    """Returns the lower limits of the first mean minus the second one, like `statistics.lower_limit_of_difference`."""
    mean, other = (sums / GRADES / np.maximum(counts, 1) for sums, counts in (first, second))
    upper = 1 - limits.lower(GRADES * second[1] - second[0], second[1])
    return mean - other - np.hypot(mean - limits.lower(*first), upper - other)


def ratings(draw: np.random.Generator, kind: str, mean: float, shape: tuple[int, int]) -> Ints:
    """Returns ratings in halves with this mean; graded ones are sums of two draws."""
    if kind == "binary":
        return GRADES * (draw.random(shape) < mean).astype(np.int64)
    return draw.binomial(GRADES, mean, shape)


def first_look(decided: NDArray[np.bool_]) -> Ints:
    """Returns for each stream the number of the first evaluation (from 1) with a decision; NEVER if there is none."""
    return np.where(decided.any(axis=1), decided.argmax(axis=1) + 1, NEVER)


def rows_needed(looks: Ints) -> int | None:
    """Returns the evaluation by which the share DECIDED of the streams is decided; None if that never happens."""
    found = int(np.sort(looks)[int(np.ceil(DECIDED * len(looks))) - 1])
    return None if found == NEVER else found


Decide = Callable[[Limits, list[Observed]], NDArray[np.bool_]]
"""Returns whether a decision is made, by stream (row) and evaluation (column)."""


def is_good_enough(limits: Limits, draws: list[Observed]) -> NDArray[np.bool_]:
    [(sums, counts)] = draws
    return (limits.lower(sums, counts) >= FLOOR) & (counts >= MIN_SAMPLES)


def is_better(limits: Limits, draws: list[Observed]) -> NDArray[np.bool_]:
    return min_differences(limits, *draws) > 0


def is_better_or_worse(limits: Limits, draws: list[Observed]) -> NDArray[np.bool_]:
    return is_better(limits, draws) | is_better(limits, draws[::-1])


def is_worse_by(allowed: float) -> Decide:
    """Returns the decision that rolls a canary back. The mean of the first series may be higher by `allowed`."""

    def decide(limits: Limits, draws: list[Observed]) -> NDArray[np.bool_]:
        enough = np.minimum(draws[0][1], draws[1][1]) >= CanaryTerms().min_requests
        return (min_differences(limits, *draws) > allowed) & enough

    return decide


@dataclass(frozen=True, slots=True)
class Scenario:
    """One decision to simulate: between means that truly differ, or that do not."""

    decision: str
    ratings: str
    difference: float
    """For best_value, a path's mean rating minus the floor. For advise, the difference of two paths. For canaries, that
    of the error rates (the stable version's is 0.05) or, for graded ratings, of what is missing to 1 (the stable
    version's is 0.2)."""
    weight: float = 0.0
    """The canary's share of the requests; 0 for other decisions, in which all paths are rated at each evaluation."""

    def run(self, streams: int, looks: int, seed: int) -> Finding:
        """Simulates this number of streams. The result does not depend on which other scenarios are simulated."""
        draw = np.random.default_rng([seed, *f"{self}".encode()])
        if self.weight:
            allowed = CanaryTerms().max_error_excess if self.ratings == "binary" else CanaryTerms().max_rating_loss
            base = 0.05 if self.ratings == "binary" else 0.2
            means, decide, is_right = [base + self.difference, base], is_worse_by(allowed), self.difference > allowed
            stated, fixed, sequence = CANARY_ALPHA, WilsonLimits(CANARY_Z), sequence_limits(CANARY_ALPHA, looks)
        elif self.decision == "best_value":
            means, decide, is_right = [FLOOR + self.difference], is_good_enough, self.difference > 0
            stated, fixed, sequence = ALPHA, WilsonLimits(one_sided_z(1 - ALPHA)), sequence_limits(ALPHA, looks)
        else:
            means, is_right = [FLOOR + self.difference, FLOOR], self.difference > 0
            decide = is_better if self.difference else is_better_or_worse
            stated, fixed, sequence = ALPHA, WilsonLimits(two_sided_z(1 - ALPHA)), sequence_limits(ALPHA / 2, looks)
        found: list[list[Ints]] = [[], []]
        for begin in range(0, streams, CHUNK):
            draws = self._draws(draw, means, (min(CHUNK, streams - begin), looks))
            methods: list[Limits] = [fixed, sequence]
            for method, limits in enumerate(methods):
                found[method].append(first_look(decide(limits, draws)))
        ended = [np.concatenate(each) for each in found]
        wrong = [None if is_right else round(float((each != NEVER).mean()), 4) for each in ended]
        rows = [rows_needed(each) if is_right else None for each in ended]
        return Finding(
            decision=self.decision,
            ratings=self.ratings,
            difference=self.difference,
            stated=stated,
            wrong_fixed=wrong[0],
            wrong_anytime=wrong[1],
            rows_fixed=rows[0],
            rows_anytime=rows[1],
        )

    def _draws(self, draw: np.random.Generator, means: list[float], shape: tuple[int, int]) -> list[Observed]:
        taken = [np.ones(shape, dtype=bool)] * len(means)
        if self.weight:
            is_canary = draw.random(shape) < self.weight
            taken = [is_canary, ~is_canary]
        return [
            ((ratings(draw, self.ratings, mean, shape) * ours).cumsum(axis=1), ours.cumsum(axis=1))
            for mean, ours in zip(means, taken, strict=True)
        ]


@lru_cache(maxsize=4)
def sequence_limits(alpha: float, looks: int) -> SequenceLimits:
    """Returns one object for all scenarios with the same arguments, so that no limit is computed twice."""
    return SequenceLimits(alpha, looks)


def scenarios() -> Iterator[Scenario]:
    for kind in ("binary", "graded"):
        for decision in ("best_value", "advise --live"):
            for difference in (-0.05, -0.02, 0.0, 0.05, 0.1, 0.2):
                yield Scenario(decision, kind, difference)
        for weight in (0.1, 0.5):
            for difference in (0.0, 0.02, 0.1, 0.2) if kind == "binary" else (0.0, 0.1, 0.2, 0.3):
                yield Scenario(f"canary at {weight:g}", kind, difference, weight)


def table(found: list[Finding]) -> str:
    """Returns the findings as a table in Markdown."""
    lines = [
        "| decision | ratings | true difference | wrong, fixed-sample | wrong, at any time | stated "
        "| rows, fixed-sample | rows, at any time |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        shares = ["" if each is None else f"{each:.1%}" for each in (one.wrong_fixed, one.wrong_anytime)]
        rows = ["" if each is None else f"{each:,}" for each in (one.rows_fixed, one.rows_anytime)]
        cells = (one.decision, one.ratings, f"{100 * one.difference:+g}", *shares, f"{one.stated:.2%}", *rows)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--looks", type=int, default=4000, help="observations of each stream, each followed by a look")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="simulate only decisions with this text in the name, as in canary")
    options = parser.parse_args()
    chosen = [scenario for scenario in scenarios() if options.only in scenario.decision]
    found = [scenario.run(options.streams, options.looks, options.seed) for scenario in chosen]
    kept = all(one.wrong_anytime <= one.stated for one in found if one.wrong_anytime is not None)
    print(table(found))
    print(json.dumps({**vars(options), "kept": kept, "findings": [asdict(one) for one in found]}))
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
