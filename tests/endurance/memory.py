"""The memory of the services over a run."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

MAX_SLOPE_MB_PER_HOUR = 1.0
WARM_UP_SECONDS = 900.0
MIN_SECONDS = 3600.0
"""A slope over less time says nothing about an hour."""


@dataclass
class Memory:
    samples: dict[tuple[str, int], list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    """(seconds, MB) by service and process id."""

    def sample(self, name: str, pid: int, at: float) -> None:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            return
        anonymous = [int(line.split()[1]) for line in lines if line.startswith("RssAnon:")]
        if anonymous:
            self.samples[name, pid].append((at, anonymous[0] / 1000))

    def table(self) -> list[tuple[str, float, float, float, float]]:
        """For the longest-lived process of each service: seconds after the warm-up, first and last MB, MB per hour."""
        rows = []
        for name in dict.fromkeys(service for service, _ in self.samples):
            longest = max(
                (samples for (service, _), samples in self.samples.items() if service == name),
                key=lambda samples: samples[-1][0] - samples[0][0],
            )
            length = longest[-1][0] - longest[0][0]
            begin = longest[0][0] + min(WARM_UP_SECONDS, length / 3)
            kept = [(at, mb) for at, mb in longest if at >= begin]
            if len(kept) > 2:
                slope = float(np.polyfit([at for at, _ in kept], [mb for _, mb in kept], 1)[0]) * 3600
                rows.append((name, kept[-1][0] - kept[0][0], kept[0][1], kept[-1][1], slope))
        return rows

    def violations(self, seconds: float) -> list[str]:
        if seconds < MIN_SECONDS:
            return []
        return [
            f"the memory of {name} grows by {slope:.1f} MB/h"
            for name, length, _, _, slope in self.table()
            if length >= MIN_SECONDS - WARM_UP_SECONDS - 60 and slope > MAX_SLOPE_MB_PER_HOUR
        ]
