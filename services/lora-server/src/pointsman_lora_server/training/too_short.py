"""Describes a training run whose time limit is too short for enough epochs: how long it would take, and how to shorten
it.
"""

import math
from dataclasses import asdict, dataclass
from decimal import ROUND_FLOOR, Context

_TWO_DIGITS = Context(prec=2, rounding=ROUND_FLOOR)


@dataclass(frozen=True, slots=True)
class TooShort:
    """A training run whose time limit is too short. The fields are those of the event "too_short"."""

    epochs: int
    """The planned number of epochs."""
    steps: int
    """The planned number of steps, in all epochs together."""
    minutes: int
    """Minutes that the whole run would take on this machine, rounded up, including the time since its start."""
    max_minutes: float
    epochs_within: float
    """Number of epochs that fit into `max_minutes`, rounded down to two significant digits; 0 if not even one step
    fits."""
    rows_within: int
    """Number of training rows for which all planned `epochs` would fit into `max_minutes`; may be 0."""

    @classmethod
    def of(
        cls, *, epochs: int, steps: int, steps_within: int, rows: int, seconds: float, max_minutes: float
    ) -> "TooShort":
        """Creates the description.

        `epochs` and `steps` are the planned numbers, `steps_within` is the number of steps that fit into `max_minutes`,
        `rows` the number of training rows, and `seconds` the duration of the whole run.
        """
        epochs_within = float(_TWO_DIGITS.create_decimal(repr(epochs * steps_within / steps)))
        rows_within = rows * steps_within // steps
        return cls(epochs, steps, math.ceil(seconds / 60), max_minutes, epochs_within, rows_within)

    def facts(self) -> dict[str, object]:
        """Returns the fields of the event "too_short", name -> value."""
        return asdict(self)

    @property
    def message(self) -> str:
        """Returns an error message for the user, with the options that would solve the problem."""
        needed = f"{self.epochs} epochs ({self.steps} steps) take about {self.minutes} minutes here"
        limit = f"--max-minutes {self.max_minutes:g}"
        if not self.epochs_within:
            return f"{needed}, and {limit} has no time for a step: raise it, or lower --samples"
        fewer_rows = f"train on at most {self.rows_within} rows (--max-rows), " if self.rows_within else ""
        return (
            f"{needed}, and {limit} has time for {self.epochs_within:g} epochs: raise it, "
            f"{fewer_rows}or accept a part of an epoch with --min-epochs 0"
        )
