"""Building blocks of the other domain modules: the `@value` decorator and the units in which values are counted."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

import numpy as np
from numpy.typing import NDArray

Decorated = TypeVar("Decorated")

Vector = NDArray[np.float32]

PICODOLLARS = 10**12
"""Picodollars in a dollar. Costs are whole picodollars, so that a sum does not depend on its order: at a price of a
millionth of a dollar per million tokens, one token costs one picodollar."""


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(of: type[Decorated]) -> type[Decorated]:
    """Declare a dataclass that type checkers treat as frozen.

    Nothing enforces that at run time, because a frozen dataclass takes three times as long to construct.
    """
    return dataclass(slots=True, unsafe_hash=True)(of)


def round_to_microseconds(seconds: Mapping[str, float]) -> dict[str, float]:
    """Round each phase's seconds to six decimals. The built-in `round` with digits takes three times as long."""
    return {phase: round(value * 1e6) / 1e6 for phase, value in seconds.items()}
