"""Lists and kills a process with its descendants, by Linux's /proc. The start time tells a reused pid apart."""

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    started: int  # clock ticks since boot; unique together with the pid


@dataclass(frozen=True, slots=True)
class _Stat:
    process: Process
    parent: int
    state: str


def process_tree(root: int) -> tuple[Process, ...]:
    """Returns `root` and all descendants, also those in other sessions; empty if `root` does not exist."""
    stats = [stat for entry in Path("/proc").glob("[0-9]*") if (stat := _read(int(entry.name))) is not None]
    children: dict[int, list[Process]] = {}
    for stat in stats:
        children.setdefault(stat.parent, []).append(stat.process)
    found = [stat.process for stat in stats if stat.process.pid == root]
    for process in found:  # the list grows during the iteration
        found.extend(children.get(process.pid, ()))
    return tuple(found)


def alive_processes(processes: Iterable[Process]) -> tuple[Process, ...]:
    """Returns the processes that still run; zombies do not count."""
    return tuple(process for process in processes if _is_running(process))


def kill_processes(processes: Iterable[Process]) -> None:
    for process in alive_processes(processes):
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


def _is_running(process: Process) -> bool:
    stat = _read(process.pid)
    return stat is not None and stat.process == process and stat.state not in "ZX"


def _read(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the process name before it may contain any character, see proc(5)
    return _Stat(Process(pid, started=int(fields[19])), parent=int(fields[1]), state=fields[0])
