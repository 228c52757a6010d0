"""Runs a command that cannot outlive us: `python leash.py COMMAND...`; imports the standard library only.

The holder of the leash keeps the write end of our stdin open. When it closes, by whatever death (kill -9 included), the
whole process group goes: vLLM's API server and the children that it leaves behind. SIGTERM is handed on to the command
alone, so that it can end in its own way. Whoever starts us makes us the leader of a session, and so of a process group.
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
    threading.Thread(target=_watch_the_hand, daemon=True).start()
    code = child.wait()
    return 128 - code if code < 0 else code


def _watch_the_hand() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def _die_with_parent() -> None:
    """In the child, before the command: should we be killed ourselves, the kernel kills it. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
