"""Runs the gateway, and counts its bytecode instructions from one signal SIGUSR2 to the next, which writes the counts
to FILE.

    python benchmarks/gateway_load/instruction_counter.py FILE
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


class InstructionCounter:
    """Counts instructions and calls of the main thread by function."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._is_counting = False
        self._instructions: Counter[CodeType] = Counter()
        self._calls: Counter[CodeType] = Counter()

    def toggle(self) -> None:
        """Starts or stops counting."""
        self._is_counting = not self._is_counting
        if self._is_counting:
            self._instructions.clear()
            self._calls.clear()
        sys.settrace(self._on_call if self._is_counting else None)
        if not self._is_counting:
            self._write()

    def _on_call(self, frame: FrameType, event: str, argument: Any) -> Trace:
        self._calls[frame.f_code] += 1
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._on_opcode

    def _on_opcode(self, frame: FrameType, event: str, argument: Any) -> Trace:
        if event == "opcode":
            self._instructions[frame.f_code] += 1
        return self._on_opcode

    def _write(self) -> None:
        rows = [
            (code.co_filename, code.co_qualname, count, self._calls[code]) for code, count in self._instructions.items()
        ]
        unfinished = self._file.with_suffix(".part")
        unfinished.write_text(json.dumps(rows))
        unfinished.rename(self._file)


def main() -> int:
    counter = InstructionCounter(Path(sys.argv.pop()))
    signal.signal(signal.SIGUSR2, lambda number, frame: counter.toggle())
    from pointsman_gateway.__main__ import main as gateway

    return gateway()


if __name__ == "__main__":
    sys.exit(main())
