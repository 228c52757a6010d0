"""Says what a run would take whose time limit has no time for enough epochs, so that somebody can choose."""

import math
from dataclasses import asdict, dataclass
from decimal import ROUND_FLOOR, Context

_TWO_DIGITS = Context(prec=2, rounding=ROUND_FLOOR)


@dataclass(frozen=True, slots=True)
class TooShort:
    """A time limit that is too short for the planned training. The fields are those of the event "too_short"."""

    epochs: int
    """The planned epochs."""
    steps: int
    """The planned steps, in all epochs together."""
    minutes: int
    """How long the whole run would take on this machine, the time until now included."""
    max_minutes: float
    epochs_within: float
    """How many epochs fit into `max_minutes`, rounded down to two digits; 0 if not even a step does."""
    rows_within: int
    """How many training rows could be trained on in all `epochs` within `max_minutes`; may be 0."""

    @classmethod
    def of(
        cls, *, epochs: int, steps: int, steps_within: int, rows: int, seconds: float, max_minutes: float
    ) -> "TooShort":
        """Takes the planned `epochs` and `steps`, how many of the steps fit into `max_minutes`, the number of training
        rows, and the seconds that the whole run would take.
        """
        epochs_within = float(_TWO_DIGITS.create_decimal(repr(epochs * steps_within / steps)))
        rows_within = rows * steps_within // steps
        return cls(epochs, steps, math.ceil(seconds / 60), max_minutes, epochs_within, rows_within)

    def facts(self) -> dict[str, object]:
        """Returns the fields of the event."""
        return asdict(self)

    @property
    def message(self) -> str:
        """Returns the problem with its remedies."""
        needed = f"{self.epochs} epochs ({self.steps} steps) take about {self.minutes} minutes here"
        limit = f"--max-minutes {self.max_minutes:g}"
        if not self.epochs_within:
            return f"{needed}, and {limit} has no time for a step: raise it, or lower --samples"
        fewer_rows = f"train on at most {self.rows_within} rows (--max-rows), " if self.rows_within else ""
        return (
            f"{needed}, and {limit} has time for {self.epochs_within:g} epochs: raise it, "
            f"{fewer_rows}or accept a part of an epoch with --min-epochs 0"
        )
