"""The gateway, which also writes how much memory its data takes: `python -m tests.endurance.measured_gateway`.

Resident memory includes what allocators keep of the largest moment, such as while a page of metrics is built. It may
rise in steps for an hour although no data stays, which hides a small leak, and looks like one.
"""

import ctypes
import os
import runpy
import sys
import threading
import time
from pathlib import Path

FILE_VARIABLE = "MEMORY_FILE"
SECONDS = 2.0
BLOCK_BYTES = 93
"""The mean size of a block of Python's allocator in a gateway, by `sys._debugmallocstats`."""
MALLINFO = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"


class Mallinfo(ctypes.Structure):
    """Of mallinfo2(3)."""

    _fields_ = [(name, ctypes.c_size_t) for name in MALLINFO.split()]


def data_megabytes(libc: ctypes.CDLL) -> float:
    """Returns the memory of this process that is in use, by Python's allocator and by C's."""
    found = libc.mallinfo2()
    return float(sys.getallocatedblocks() * BLOCK_BYTES + found.uordblks + found.hblkhd) / 1_000_000


def write_always(file: Path) -> None:
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = Mallinfo
    part = file.with_suffix(".part")
    while True:
        part.write_text(f"{data_megabytes(libc):.3f}")
        part.replace(file)
        time.sleep(SECONDS)


if __name__ == "__main__":
    threading.Thread(target=write_always, args=(Path(os.environ[FILE_VARIABLE]),), daemon=True).start()
    runpy.run_module("pointsman_gateway", run_name="__main__", alter_sys=True)
