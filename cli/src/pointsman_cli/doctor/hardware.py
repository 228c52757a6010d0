"""Reads the machine's hardware from Linux and checks that it suffices for the engine and the services."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pointsman_cli.doctor.findings import Finding, fail, ok, warn


@dataclass(frozen=True, slots=True)
class Machine:
    python: tuple[int, int]
    architecture: str  # "x86_64", "aarch64"
    cores: int  # usable by this process
    cpu_flags: frozenset[str]
    memory_available: int  # bytes; 0 if unknown
    disk_free: int  # bytes, on the file system of the data directory


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


GIB = 2**30
# An engine with a 135M model takes about 2 GB; the services and Valkey together take less than 1 GB.
MEMORY_NEEDED = 3 * GIB
MEMORY_WANTED = 5 * GIB
# The base model takes 270 MB and 370 MB more while it is created; an adapter takes a few MB.
DISK_NEEDED = 1 * GIB
DISK_WANTED = 3 * GIB


def check_hardware(machine: Machine) -> Iterator[Finding]:
    yield _python(machine)
    yield _cores(machine)
    yield _instructions(machine)
    yield _memory(machine)
    yield _disk(machine)


def _python(machine: Machine) -> Finding:
    version = ".".join(map(str, machine.python))
    if machine.python < (3, 11):
        return fail("python", f"{version}; it takes 3.11 or newer")
    return ok("python", version)


def _cores(machine: Machine) -> Finding:
    if machine.cores < 2:
        return warn("cores", "1; the engine and the services will wait for each other, two or more are better")
    return ok("cores", str(machine.cores))


def _instructions(machine: Machine) -> Finding:
    flags, what = machine.cpu_flags, "cpu"
    if machine.architecture != "x86_64":
        return warn(what, f"{machine.architecture}; the CPU engine was tried on x86_64 only")
    if "avx512f" in flags:
        return ok(what, "AVX512" + (" with bf16" if "avx512_bf16" in flags else ""))
    if "avx2" in flags:
        return warn(what, "AVX2 without AVX512; the engine runs, but slower")
    return fail(what, "neither AVX512 nor AVX2; vLLM's CPU engine needs one of them")


def _memory(machine: Machine) -> Finding:
    if not machine.memory_available:
        return warn("memory", "unknown on this system")
    have = f"{machine.memory_available / GIB:.1f} GiB free"
    if machine.memory_available < MEMORY_NEEDED:
        return fail("memory", f"{have}; the engine and the services need {MEMORY_NEEDED // GIB} GiB, close something")
    if machine.memory_available < MEMORY_WANTED:
        return warn("memory", f"{have}; {MEMORY_WANTED // GIB} GiB leave room for training")
    return ok("memory", have)


def _disk(machine: Machine) -> Finding:
    have = f"{machine.disk_free / GIB:.1f} GiB free"
    if machine.disk_free < DISK_NEEDED:
        return fail("disk", f"{have}; the models need {DISK_NEEDED // GIB} GiB, make room or choose another --data-dir")
    if machine.disk_free < DISK_WANTED:
        return warn("disk", f"{have}; {DISK_WANTED // GIB} GiB are better")
    return ok("disk", have)
