"""How sure the static stage must be for its word to be taken, learned from texts that are new to both stages."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pointsman_gateway.classification.examples import Examples
from pointsman_gateway.classification.fitted import Gate
from pointsman_gateway.classification.judging import Judged

MARGINS = (0.7, 0.8, 0.9, 0.95, 0.99, 1.01)
"""The last is never reached: the gate stays shut."""

TOLERANCE = 0.0003
"""Of accuracy, which a cheaper gate may cost. Little, since examples are more alike than what traffic brings."""

FLOOR = 0.20
"""The share of texts in scope that are not familiar enough for the static stage.

It tells foreign texts from others less well than the encoder does, and may be sure of itself all the same: in the mean
of eight sets 25 % of those pass a floor of 0.1, 10 % one of 0.2, 4 % one of 0.3.
"""

ENOUGH_EXAMPLES = 40
"""Fewer do not show what the static stage can be trusted with: the encoder reads all."""

ENOUGH_FOR_A_LINE = 20


def gate_of(data: Examples, static: Judged, encoder: Judged) -> Gate:
    """The gate that spares the encoder most while nearly as many are right as with the best one."""
    floor = float(np.quantile(static.familiarity[data.inside], FLOOR))
    gates = [Gate(least, floor, 1.0, 0.0) for least in MARGINS]
    if data.inside.sum() < ENOUGH_EXAMPLES:
        return gates[-1]
    right = [float((through(gate, static, encoder).predicted == data.y)[data.inside].mean()) for gate in gates]
    gate = next(gate for gate, value in zip(gates, right, strict=True) if value >= max(right) - TOLERANCE)
    passes = passing(gate, static) & data.inside
    slope, offset = _line(static.familiarity[passes], encoder.familiarity[passes])
    return replace(gate, slope=slope, offset=offset)


def passing(gate: Gate, static: Judged) -> NDArray[np.bool_]:
    """(texts,)"""
    return (static.margin >= gate.least_margin) & (static.familiarity >= gate.least_familiarity)


def through(gate: Gate, static: Judged, encoder: Judged) -> Judged:
    """As the cascade decides: what passes is the static stage's, its familiarity on the encoder's scale."""
    passes = passing(gate, static)
    return replace(
        encoder,
        predicted=np.where(passes, static.predicted, encoder.predicted),
        confidence=np.where(passes, static.confidence, encoder.confidence),
        margin=np.where(passes, static.margin, encoder.margin),
        familiarity=np.where(passes, gate.slope * static.familiarity + gate.offset, encoder.familiarity),
    )


def _line(x: NDArray[np.floating], y: NDArray[np.floating]) -> tuple[float, float]:
    """Least squares, never falling; the plain difference of means where rows are few."""
    if len(x) < ENOUGH_FOR_A_LINE:
        return 1.0, float((y - x).mean()) if len(x) else 0.0
    slope = max(float(np.cov(x, y)[0, 1]) / max(float(x.var()), 1e-9), 0.0)
    return slope, float(y.mean() - slope * x.mean())
