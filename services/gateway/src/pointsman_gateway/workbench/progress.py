"""How far a command is, a line each time: "WHAT: DONE of TOTAL"."""

import sys
import time
from collections.abc import Callable

BETWEEN = 0.1
"""Seconds from one line to the next; the last of each kind always comes."""

Progress = Callable[[str, int, int], None]
"""What is being done, how many are done, how many there are."""


class ProgressLines:
    """Writes them to standard error, so that standard output is the report's."""

    def __init__(self) -> None:
        self._said_at = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done < total and now - self._said_at < BETWEEN:
            return
        self._said_at = now
        print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)
