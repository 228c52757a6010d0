"""The gateway, counting the bytecode instructions that it runs between two SIGUSR2; the second writes them to a file.

python benchmarks/gateway_load/counted_gateway.py FILE
"""

import json
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

Trace = Callable[[FrameType, str, Any], Any]


class Counting:
    """Of the main thread, by function."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._counts = False
        self._instructions: Counter[CodeType] = Counter()
        self._calls: Counter[CodeType] = Counter()

    def turn(self) -> None:
        """On, or off."""
        self._counts = not self._counts
        if self._counts:
            self._instructions.clear()
            self._calls.clear()
        sys.settrace(self._entered if self._counts else None)
        if not self._counts:
            self._write()

    def _entered(self, frame: FrameType, event: str, argument: Any) -> Trace:
        self._calls[frame.f_code] += 1
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._ran

    def _ran(self, frame: FrameType, event: str, argument: Any) -> Trace:
        if event == "opcode":
            self._instructions[frame.f_code] += 1
        return self._ran

    def _write(self) -> None:
        rows = [
            (code.co_filename, code.co_qualname, count, self._calls[code]) for code, count in self._instructions.items()
        ]
        whole = self._file.with_suffix(".part")
        whole.write_text(json.dumps(rows))
        whole.rename(self._file)


def main() -> int:
    counting = Counting(Path(sys.argv.pop()))
    signal.signal(signal.SIGUSR2, lambda number, frame: counting.turn())
    from pointsman_gateway.__main__ import main as gateway

    return gateway()


if __name__ == "__main__":
    sys.exit(main())
