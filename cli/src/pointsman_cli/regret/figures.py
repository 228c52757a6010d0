"""What a gateway's metrics say of its shadows: pair by pair of paths, since it was started."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pointsman_cli.top.scrape import Scrape


@dataclass(frozen=True, slots=True)
class Side:
    """Means over the pairs; quality over those that were scored, None where none was."""

    usd: float
    seconds: float
    quality: float | None


@dataclass(frozen=True, slots=True)
class Compared:
    """One path beside another on one task."""

    task: str
    chosen: str
    shadow: str
    pairs: int
    scored: int
    of_chosen: Side
    of_shadow: Side
    regret_usd: float
    """In all: what the shadow would have spared, where it was no worse."""
    regret_quality: float
    """In all: by how much the shadow was better."""


@dataclass(frozen=True, slots=True)
class Regrets:
    compared: tuple[Compared, ...]
    ends: Mapping[str, int]
    """What came of all that were drawn: "ok", "crowded", "spent", ..."""
    spent_usd: float


def regrets(scrape: Scrape) -> Regrets:
    pairs = scrape.samples.get("pointsman_shadow_pairs_total", {})
    ends: dict[str, int] = {}
    for labels, number in scrape.samples.get("pointsman_shadow_requests_total", {}).items():
        outcome = dict(labels)["outcome"]
        ends[outcome] = ends.get(outcome, 0) + round(number)
    compared = tuple(_compared(scrape, dict(labels), round(number)) for labels, number in sorted(pairs.items()))
    return Regrets(compared, ends, scrape.value("pointsman_shadow_cost_usd_total") or 0.0)


def _compared(scrape: Scrape, of: Mapping[str, str], pairs: int) -> Compared:
    scored = round(_sum(scrape, "pointsman_shadow_scored_total", of))
    chosen, shadow = (_side(scrape, {**of, "side": side}, pairs, scored) for side in ("chosen", "shadow"))
    return Compared(
        of["task"],
        of["chosen"],
        of["path"],
        pairs,
        scored,
        chosen,
        shadow,
        _sum(scrape, "pointsman_regret_usd_total", of),
        _sum(scrape, "pointsman_regret_quality_total", of),
    )


def _side(scrape: Scrape, of: Mapping[str, str], pairs: int, scored: int) -> Side:
    return Side(
        usd=_sum(scrape, "pointsman_shadow_pair_cost_usd_total", of) / pairs,
        seconds=_sum(scrape, "pointsman_shadow_pair_seconds_total", of) / pairs,
        quality=_sum(scrape, "pointsman_shadow_quality_total", of) / scored if scored else None,
    )


def _sum(scrape: Scrape, name: str, of: Mapping[str, str]) -> float:
    return sum(_having(scrape, name, of))


def _having(scrape: Scrape, name: str, of: Mapping[str, str]) -> Iterator[float]:
    for labels, value in scrape.samples.get(name, {}).items():
        if of.items() <= dict(labels).items():
            yield value
