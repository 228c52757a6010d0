"""Becomes another program, one that is told to stop when its parent dies.

Run as `python -I launcher.py SIGNAL PARENT PROGRAM ARG...`. A program of its own, since `preexec_fn` is not safe in a
process with threads, and gRPC has them. Standard library only.
The parent's *thread* counts (Linux, PR_SET_PDEATHSIG): start it from the main one.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    signal, parent, *program = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal))
    if os.getppid() != int(parent):
        sys.exit("the parent died before its child was there")
    try:
        os.execvp(program[0], program)
    except OSError as error:
        sys.exit(f"cannot run {program[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
