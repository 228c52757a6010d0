"""Measures how long processes have waited for a processor: processes that wait too long cannot meet deadlines."""

import os
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from pathlib import Path

NANO = 1e9


@dataclass
class CpuWaits:
    samples: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    """By the process's name, the times of the samples, and the total seconds of waiting up to each."""
    loads: list[float] = field(default_factory=list)
    _pids: dict[str, tuple[int, float, float]] = field(default_factory=dict)

    def sample(self, name: str, pid: int, now: float) -> None:
        try:
            waited = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / NANO
        except (OSError, IndexError):
            return
        last_pid, last, total = self._pids.get(name, (pid, waited, 0.0))
        total += max(0.0, waited - last) if last_pid == pid else waited
        self._pids[name] = pid, waited, total
        times, waits = self.samples.setdefault(name, ([], []))
        times.append(now)
        waits.append(total)

    def between(self, name: str, begin: float, end: float) -> float:
        """Returns the seconds of waiting between two times. The samples next to the two times count in full."""
        times, waits = self.samples.get(name, ([], []))
        if not times:
            return 0.0
        first = max(0, bisect_right(times, begin) - 1)
        last = min(len(times) - 1, bisect_left(times, end))
        return waits[last] - waits[first]

    def sample_load(self) -> None:
        self.loads.append(os.getloadavg()[0])

    def share(self, name: str) -> float:
        """Returns the share of the time in which the process was ready to run and had no processor."""
        times, waits = self.samples.get(name, ([], []))
        return (waits[-1] - waits[0]) / (times[-1] - times[0]) if len(times) > 1 else 0.0
