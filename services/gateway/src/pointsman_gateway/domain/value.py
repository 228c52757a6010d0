"""The decorator `value`, the vector type and units, which the other domain modules use."""

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
"""What is done with a text that is too long for the embedding model: "error" rejects it, "truncate" embeds only its
beginning, "mean" averages the vectors of its parts."""

CHARACTERS_PER_TOKEN = 4
"""Characters of one token, as a common average for English texts. Token counts that no engine reports are estimated
with it.
"""
PICODOLLARS = 10**12
"""Picodollars in a dollar. Costs are whole picodollars, so that a sum does not depend on the order of its parts. At a
price of a millionth of a dollar per million tokens, one token costs one picodollar."""

UNPRICED = "unpriced"
"""The key that a receipt's costs have if the price of a model is unknown. The amount under this key is 0 and has no
meaning.
"""


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(of: type[Decorated]) -> type[Decorated]:
    """Makes a class a dataclass with slots and a hash, which type checkers treat as frozen.

    At run time its attributes can be set, because a frozen dataclass takes three times as long to construct.
    """
    return dataclass(slots=True, unsafe_hash=True)(of)


def round_to_microseconds(seconds: Mapping[str, float]) -> dict[str, float]:
    """Returns the seconds of each phase, rounded to six decimals.

    The built-in `round` would take three times as long.
    """
    return {phase: round(value * 1e6) / 1e6 for phase, value in seconds.items()}
