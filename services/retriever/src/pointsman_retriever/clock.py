"""Where the time of a search goes."""

import time


class Stopwatch:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}  # seconds
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """What has passed since the last one was spent on this."""
        now = time.perf_counter()
        self.laps[name] = now - self._last
        self._last = now
