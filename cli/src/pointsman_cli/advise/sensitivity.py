"""How a break-even moves when a price does."""

from dataclasses import dataclass

from pointsman_cli.advise.money import TRAINING, Terms, break_even
from pointsman_cli.eval.report import PathFigures

FACTORS = (0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class Sensitivity:
    price: str
    """ "prompt", "cached", "completion", "retrieval" or "training"."""
    requests: tuple[float | None, ...]
    """Until the training is earned back, at each of `FACTORS`; None: never."""


def sensitivities(trained: PathFigures, untrained: PathFigures, terms: Terms) -> tuple[Sensitivity, ...]:
    """One price at a time, for both paths alike."""
    prices = [*dict.fromkeys((*trained.usd_per_1000, *untrained.usd_per_1000)), TRAINING]
    return tuple(
        Sensitivity(price, tuple(break_even(trained, untrained, terms, {price: factor}).requests for factor in FACTORS))
        for price in prices
    )
