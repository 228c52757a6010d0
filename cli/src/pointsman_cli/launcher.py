"""Becomes another program, one that is told to stop when its parent dies.

Run as `python -I launcher.py SIGNAL PARENT GUARD PROGRAM ARG...`. GUARD is a file descriptor, or -1: the end of a pipe,
into which it says its pid. The pipe's other end hears that before it hears of any end of the parent's, however suddenly
that dies. A program of its own, since `preexec_fn` is not safe in a process with threads, and gRPC has them. Standard
library only.
The parent's *thread* counts (Linux, PR_SET_PDEATHSIG): start it from the main one.
"""

import ctypes
import os
import sys
from contextlib import suppress

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    signal, parent, guard, *program = sys.argv[1:]
    if guard != "-1":
        _say_pid(int(guard))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal))
    if os.getppid() != int(parent):
        sys.exit("the parent died before its child was there")
    try:
        os.execvp(program[0], program)
    except OSError as error:
        sys.exit(f"cannot run {program[0]}: {error.strerror}")


def _say_pid(guard: int) -> None:
    with suppress(BrokenPipeError):  # no guard is there any more
        os.write(guard, f"{os.getpid()}\n".encode())
    os.close(guard)


if __name__ == "__main__":
    main()
