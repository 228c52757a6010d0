"""The gateway, which also writes what its memory is used for: `python -m tests.endurance.measured_gateway`.

Resident memory includes memory that allocators keep after a peak, such as while a page of metrics is built. So it may
rise in steps for an hour although no data stays; this hides a small leak, and looks like one.
"""

import ctypes
import json
import os
import re
import runpy
import threading
import time
from pathlib import Path
from typing import Any

FILE_VARIABLE = "MEMORY_FILE"
SECONDS = 2.0
MALLINFO = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
PYTHON_BLOCKS = re.compile(r"bytes in (allocated|available) blocks += +([\d,]+)|unused pools .* = +([\d,]+)")


class Mallinfo(ctypes.Structure):
    """The result of the C function mallinfo2(3)."""

    _fields_ = [(name, ctypes.c_size_t) for name in MALLINFO.split()]


class Allocators:
    """Statistics of Python's and C's allocators in this process."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)
        self._libc.mallinfo2.restype = Mallinfo
        self._libc.open_memstream.restype = ctypes.c_void_p
        for name in ("fclose", "free"):
            getattr(self._libc, name).argtypes = [ctypes.c_void_p]
        self._write_statistics: Any = ctypes.pythonapi._PyObject_DebugMallocStats
        self._write_statistics.argtypes = [ctypes.c_void_p]

    def megabytes(self) -> dict[str, float]:
        """Returns, in MB, the memory in use (`data`), and for each allocator the freed memory that it keeps."""
        c = self._libc.mallinfo2()
        used, kept = self._python()
        sizes = {"data": used + c.uordblks + c.hblkhd, "kept by Python": kept, "kept by C": c.fordblks}
        return {name: size / 1_000_000 for name, size in sizes.items()}

    def _python(self) -> tuple[int, int]:
        """Returns the bytes in use and those in free blocks, as `sys._debugmallocstats` writes them to a C stream."""
        text, size = ctypes.c_void_p(), ctypes.c_size_t()
        stream = self._libc.open_memstream(ctypes.byref(text), ctypes.byref(size))
        self._write_statistics(stream)
        self._libc.fclose(stream)
        statistics = ctypes.string_at(text, size.value).decode()
        self._libc.free(text)
        used = kept = 0
        for kind, blocks, pools in PYTHON_BLOCKS.findall(statistics):
            number = int((blocks or pools).replace(",", ""))
            used, kept = (used + number, kept) if kind == "allocated" else (used, kept + number)
        return used, kept


def write_always(file: Path) -> None:
    allocators, part = Allocators(), file.with_suffix(".part")
    while True:
        part.write_text(json.dumps(allocators.megabytes()))
        part.replace(file)
        time.sleep(SECONDS)


if __name__ == "__main__":
    threading.Thread(target=write_always, args=(Path(os.environ[FILE_VARIABLE]),), daemon=True).start()
    runpy.run_module("pointsman_gateway", run_name="__main__", alter_sys=True)
