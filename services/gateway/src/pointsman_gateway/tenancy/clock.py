"""The clocks that tenancy goes by."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    monotonic: Callable[[], float] = time.monotonic
    """Seconds; what is leased is timed by it."""
    wall: Callable[[], float] = time.time
    """Unix seconds; for the expiry of keys and the day of what is used."""
    ahead_ms: Callable[[], int] = lambda: 0
    """How much later than its own clock says Redis should take it to be; 0 but where a test lets time pass."""
