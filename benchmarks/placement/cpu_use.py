"""How much processor time this process, its descendants, and all other processes have taken."""

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class CpuUse:
    """Seconds since the start of the machine and of the processes."""

    at: float
    machine: float
    own: float
    """Of this process and its descendants, ended ones included if their parents have waited for them."""

    @classmethod
    def now(cls) -> "CpuUse":
        user, nice, system, *_ = (int(field) for field in Path("/proc/stat").read_text().split()[1:8])
        times, parents = dict[int, int](), dict[int, int]()
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with suppress(OSError):  # it has exited
                    fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                    parents[int(entry)] = int(fields[1])
                    times[int(entry)] = sum(map(int, fields[11:15]))
        own = sum(ticks for process, ticks in times.items() if _descends(process, os.getpid(), parents))
        return cls(time.monotonic(), (user + nice + system) / TICKS, own / TICKS)

    def shares_since(self, before: "CpuUse") -> tuple[float, float]:
        """Returns the shares of all cores' time that the own and the other processes took in between."""
        seconds = (self.at - before.at) * (os.cpu_count() or 1)
        own = (self.own - before.own) / seconds
        return own, max(0.0, (self.machine - before.machine) / seconds - own)


def _descends(process: int, ancestor: int, parents: dict[int, int]) -> bool:
    while process > 1:
        if process == ancestor:
            return True
        process = parents.get(process, 0)
    return False
