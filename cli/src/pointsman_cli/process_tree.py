"""A process with all its descendants, as Linux's /proc shows them; a pid that was given away again is told apart."""

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    started: int  # clock ticks after boot; with the pid it is unique


@dataclass(frozen=True, slots=True)
class _Stat:
    process: Process
    parent: int
    state: str


def tree(root: int) -> tuple[Process, ...]:
    """The process `root` and everything below it, also what has a session of its own; empty where it is not there."""
    stats = [stat for entry in Path("/proc").glob("[0-9]*") if (stat := _read(int(entry.name))) is not None]
    children: dict[int, list[Process]] = {}
    for stat in stats:
        children.setdefault(stat.parent, []).append(stat.process)
    found = [stat.process for stat in stats if stat.process.pid == root]
    for process in found:  # grows while it is walked
        found.extend(children.get(process.pid, ()))
    return tuple(found)


def alive(processes: Iterable[Process]) -> tuple[Process, ...]:
    """Those that still run; one that waits only for its parent to look (a zombie) does not."""
    return tuple(process for process in processes if _runs(process))


def kill(processes: Iterable[Process]) -> None:
    for process in alive(processes):
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


def _runs(process: Process) -> bool:
    stat = _read(process.pid)
    return stat is not None and stat.process == process and stat.state not in "ZX"


def _read(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything; see proc(5)
    return _Stat(Process(pid, started=int(fields[19])), parent=int(fields[1]), state=fields[0])
