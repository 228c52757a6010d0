"""Measures how the memory of each service grows over a run."""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from scipy.stats import theilslopes  # type: ignore[import-untyped]  # it ships no types

MAX_SLOPE_MB_PER_HOUR = 1.0
RESIDENT, KEPT = ", resident", ", kept by "
WARM_UP_SECONDS = 900.0
MIN_SECONDS = 3600.0
"""Shortest run for which a slope is computed: less time says nothing about an hour."""
WINDOW_SECONDS = 150.0
"""Length of a window. Only its smallest sample counts, because memory that requests and faults need for seconds is no
growth."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Growth:
    """The growth of a service's longest-lived process after the warm-up: of its anonymous memory or of its data."""

    name: str
    seconds: float
    first: float
    last: float
    """The last sample in MB; `first` is the first one after the warm-up."""
    slope: float
    """MB per hour: the median of the slopes between all pairs of windows (Theil and Sen)."""
    least: float
    most: float
    """The upper end of the slope's confidence interval; `least` is the lower. Windows are taken as independent."""
    by_window: list[float]
    """Memory in each window, in MB; shows whether it grows steadily or in steps."""

    def __str__(self) -> str:
        interval = f"{self.slope:+.1f} MB/h ({self.least:+.1f} to {self.most:+.1f})"
        return f"{self.first:.1f} -> {self.last:.1f} MB in {self.seconds / 60:.0f} min, {interval}"


@dataclass
class Memory:
    samples: dict[tuple[str, int], list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    """(seconds, MB) by service and process id."""

    def sample(self, name: str, pid: int, at: float, data_file: Path | None = None) -> None:
        """Adds a sample of a process's memory. `data_file` is the file in which `measured_gateway` writes what its
        memory is used for.
        """
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            uses = json.loads(data_file.read_text()) if data_file else {}
        except OSError:
            return
        anonymous = [int(line.split()[1]) for line in lines if line.startswith("RssAnon:")]
        if anonymous:
            self.samples[name + (RESIDENT if data_file else ""), pid].append((at, anonymous[0] / 1000))
        for use, megabytes in uses.items():
            self.samples[name if use == "data" else f"{name}, {use}", pid].append((at, megabytes))

    def growth(self) -> list[Growth]:
        """Returns one entry for each service with at least three windows after the warm-up."""
        grown = []
        for name in dict.fromkeys(service for service, _ in self.samples):
            longest = max(
                (samples for (service, _), samples in self.samples.items() if service == name),
                key=lambda samples: samples[-1][0] - samples[0][0],
            )
            length = longest[-1][0] - longest[0][0]
            begin = longest[0][0] + min(WARM_UP_SECONDS, length / 3)
            kept = [(at, mb) for at, mb in longest if at >= begin]
            windows = _smallest_by_window(kept)
            if len(windows) >= 3:
                hours, megabytes = [at / 3600 for at, _ in windows], [mb for _, mb in windows]
                slope, _, least, most = theilslopes(megabytes, hours, CONFIDENCE)
                seconds = kept[-1][0] - kept[0][0]
                grown.append(Growth(name, seconds, kept[0][1], kept[-1][1], slope, least, most, megabytes))
        return grown

    def violations(self, seconds: float) -> list[str]:
        """Returns a line for each service whose memory grows too fast: its data, or its resident memory including what
        allocators keep.
        """
        if seconds < MIN_SECONDS:
            return []
        return [
            f"the memory of {one.name} grows: {one}"
            for one in self.growth()
            if KEPT not in one.name
            and one.seconds >= MIN_SECONDS - WARM_UP_SECONDS - 60
            and one.slope > MAX_SLOPE_MB_PER_HOUR
        ]


def _smallest_by_window(samples: list[tuple[float, float]]) -> list[tuple[float, float]]:
    windows: dict[int, tuple[float, float]] = {}
    for at, mb in samples:
        window = int((at - samples[0][0]) // WINDOW_SECONDS)
        windows[window] = min(windows.get(window, (at, mb)), (at, mb), key=lambda sample: sample[1])
    return list(windows.values())
