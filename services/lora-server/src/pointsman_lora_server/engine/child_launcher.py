"""Runs a command that ends when the process that started this launcher ends: `python child_launcher.py COMMAND...`.
Imports the standard library only.

The starter holds the write end of a pipe that is the launcher's stdin. When this end closes, however the starter died
(kill -9 included), the whole process group is killed: vLLM's API server and the children that it leaves behind. SIGTERM
is passed on to the command alone, so that it can shut down by itself. The starter must start the launcher in a new
session, which makes the launcher the leader of its process group.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading

PR_SET_PDEATHSIG = 1  # prctl(2)


def main() -> int:
    try:
        child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)
    except OSError as error:
        print(f"cannot start {sys.argv[1]}: {error}", flush=True)
        return 127
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    threading.Thread(target=_kill_group_at_end_of_stdin, daemon=True).start()
    code = child.wait()
    return 128 - code if code < 0 else code


def _kill_group_at_end_of_stdin() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def _die_with_parent() -> None:
    """Makes the kernel kill the command if the launcher dies (Linux only). Called in the child process before the
    command is executed.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
