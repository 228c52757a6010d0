"""What this machine has, as Linux says it."""

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    python: tuple[int, int]
    architecture: str  # "x86_64", "aarch64"
    cores: int  # that this process may use
    cpu_flags: frozenset[str]
    memory_available: int  # bytes; 0 where it cannot be told
    disk_free: int  # bytes, where HOME is or will be


def look_at_machine(data_dir: Path) -> Machine:
    return Machine(
        python=sys.version_info[:2],
        architecture=platform.machine(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        cpu_flags=_cpu_flags(),
        memory_available=_memory_available(),
        disk_free=shutil.disk_usage(_existing(data_dir)).free,
    )


def _cpu_flags() -> frozenset[str]:
    for line in _lines("/proc/cpuinfo"):
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def _memory_available() -> int:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text().splitlines()
    except OSError:
        return []


def _existing(folder: Path) -> Path:
    return next(at for at in (folder, *folder.parents) if at.exists())
