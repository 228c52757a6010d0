"""Executes a program that gets a signal when its parent process dies.

Usage: `python -I launcher.py SIGNAL PARENT_PID PIPE PROGRAM ARG...`. SIGNAL is a number. PIPE is the descriptor of a
pipe to the reaper (`up/reaper.py`), or -1. The launcher first writes its own pid into the pipe, so the reaper knows
every child before it can see the pipe close, however suddenly the parent dies.

The launcher is a separate program that imports the standard library only, because `preexec_fn` is unsafe in a process
with threads, and gRPC starts some. The signal is sent when the parent's *thread* ends (PR_SET_PDEATHSIG, on Linux
only), so the launcher must be started from the main thread.
"""

import ctypes
import os
import sys
from contextlib import suppress

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    signal, parent, reaper_pipe, *program = sys.argv[1:]
    if reaper_pipe != "-1":
        _write_pid(int(reaper_pipe))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal))
    if os.getppid() != int(parent):
        sys.exit("the parent died before its child started")
    try:
        os.execvp(program[0], program)
    except OSError as error:
        sys.exit(f"cannot run {program[0]}: {error.strerror}")


def _write_pid(pipe: int) -> None:
    with suppress(BrokenPipeError):  # the reaper has ended
        os.write(pipe, f"{os.getpid()}\n".encode())
    os.close(pipe)


if __name__ == "__main__":
    main()
