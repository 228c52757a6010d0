"""Outlives `pointsman up` for a moment: when that dies without a word (kill -9), leaves none of its processes behind.

Runs as `python -m pointsman_cli.up.guard GRACE` and reads one line from each process that `up` starts, its pid. The
pipe's end without the line "done" means that `up` is dead, and that no child is still to say its pid: its children have
then been told to stop by the kernel (see `launcher.py`), and what is still there after GRACE seconds is killed, with
everything below it.
"""

import os
import signal
import sys
import time

from pointsman_cli.process_tree import Process, alive_processes, kill_processes, process_tree

INTERVAL = 0.1  # seconds between looks


def main() -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    grace = float(sys.argv[1])
    os.write(sys.stdout.fileno(), b"ready\n")
    known: dict[int, Process] = {}
    for line in sys.stdin:
        if line.strip() == "done":
            return
        pid = int(line)
        if found := process_tree(pid):
            known[pid] = found[0]
    _leave_none([process for root in known.values() for process in _tree_of(root)], grace)


def _tree_of(root: Process) -> tuple[Process, ...]:
    found = process_tree(root.pid)
    return found if root in found else ()  # else the pid is someone else's by now


def _leave_none(processes: list[Process], grace: float) -> None:
    deadline = time.monotonic() + grace
    while alive_processes(processes) and time.monotonic() < deadline:
        time.sleep(INTERVAL)
    kill_processes(processes)


if __name__ == "__main__":
    main()
