"""Building blocks of the other domain modules: the `@value` decorator, and the units in which values are counted."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar, dataclass_transform

if TYPE_CHECKING:  # a gateway that embeds no text runs without NumPy
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]
else:
    Vector = Any

Decorated = TypeVar("Decorated")

Overflow = Literal["error", "truncate", "mean"]
"""What is done with a text that is longer than the embedding model reads: it is rejected, its beginning is read, or the
vectors of its parts are averaged."""

CHARACTERS_PER_TOKEN = 4
"""A common figure for English; used only for estimates before the tokens are counted."""
PICODOLLARS = 10**12
"""Picodollars in a dollar. Costs are whole picodollars, so that a sum does not depend on its order: at a price of a
millionth of a dollar per million tokens, one token costs one picodollar."""

UNPRICED = "unpriced"
"""A component of a receipt's cost: the tokens of a model without a known price. Its amount is 0, and means unknown."""


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(of: type[Decorated]) -> type[Decorated]:
    """Declares a dataclass that type checkers treat as frozen.

    Nothing enforces that at run time, because a frozen dataclass takes three times as long to construct.
    """
    return dataclass(slots=True, unsafe_hash=True)(of)


def round_to_microseconds(seconds: Mapping[str, float]) -> dict[str, float]:
    """Returns the seconds of each phase, rounded to six decimals; `round(value, 6)` would be three times slower."""
    return {phase: round(value * 1e6) / 1e6 for phase, value in seconds.items()}
