"""Whether a new version may be tried on traffic: better on held-out rows, by more than chance, and worse on few."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pointsman_scoring.intervals import Interval, compare, mean_interval

from pointsman_cli.distill.plan import Gates


@dataclass(frozen=True, slots=True)
class Examination:
    rows: int
    incumbent: Interval
    candidate: Interval
    gain: Interval
    p_value: float
    regressions: int
    """Rows that the candidate answers worse."""
    objections: tuple[str, ...]
    """None where it passes."""

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "objections": list(self.objections)}

    def __str__(self) -> str:
        return (
            f"{self.candidate.mean:.3f} against {self.incumbent.mean:.3f} on {self.rows} rows: "
            f"gain {self.gain.mean:+.3f} [{self.gain.low:+.3f}, {self.gain.high:+.3f}], "
            f"p {self.p_value:.2g}, {self.regressions} answered worse"
        )


def examine(gates: Gates, incumbent: Sequence[float], candidate: Sequence[float]) -> Examination:
    """Scores from 0 to 1 of the same rows, in the same order. Raises ValueError where there are none."""
    found = compare(candidate, incumbent, gates.confidence)
    regressions = sum(new < old for new, old in zip(candidate, incumbent, strict=True))
    return Examination(
        rows=len(candidate),
        incumbent=mean_interval(incumbent, gates.confidence),
        candidate=mean_interval(candidate, gates.confidence),
        gain=found.difference,
        p_value=found.p_value,
        regressions=regressions,
        objections=tuple(_objections(gates, found.difference, regressions / len(candidate))),
    )


def _objections(gates: Gates, gain: Interval, worse: float) -> Iterator[str]:
    if gain.low < gates.min_gain:
        yield (
            f"gain {gain.mean:+.3f}, at {gates.confidence:.0%} confidence no more than {gain.low:+.3f} is sure: "
            f"under {gates.min_gain:+.3f}"
        )
    if worse > gates.max_regressions:
        yield f"{worse:.0%} of the rows are answered worse than now: over {gates.max_regressions:.0%}"
