"""Kills the processes that still run after a `pointsman up` was killed.

Runs as `python -m pointsman_cli.up.reaper GRACE` and reads from a pipe one pid of each process that `up` starts. If the
pipe closes without the line "done", `up` is dead and no child can still report its pid. The kernel has then sent
SIGTERM to the children (see `launcher.py`). The reaper kills those that still run after GRACE seconds, with their
descendants.
"""

import os
import signal
import sys
import time

from pointsman_cli.processes import Process, alive_processes, kill_processes, process_tree

POLL_SECONDS = 0.1  # seconds between polls


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
    _kill_survivors([process for root in known.values() for process in _tree_of(root)], grace)


def _tree_of(root: Process) -> tuple[Process, ...]:
    found = process_tree(root.pid)
    return found if root in found else ()  # otherwise the pid has been reused


def _kill_survivors(processes: list[Process], grace: float) -> None:
    deadline = time.monotonic() + grace
    while alive_processes(processes) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    kill_processes(processes)


if __name__ == "__main__":
    main()
