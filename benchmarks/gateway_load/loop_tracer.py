"""Runs the gateway, and records its event loop's iterations of more than a millisecond from the signal START to the
signal STOP, which writes them to FILE. Either may be sent again.

    python benchmarks/gateway_load/loop_tracer.py FILE

The loop is asyncio's own: uvloop's iterations cannot be observed. It takes longer for the same work.
"""

import asyncio
import gc
import json
import selectors
import signal
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

THRESHOLD_SECONDS = 0.001
SAMPLE_SECONDS = 0.0005
"""Interval at which the running code is sampled once an iteration exceeds the threshold."""
OWN_CODE = "/pointsman_"
START, STOP = signal.SIGRTMIN, signal.SIGRTMIN + 1


@dataclass(frozen=True, slots=True)
class Iteration:
    """One iteration of the event loop, from the end of its wait for events to the start of the next wait."""

    at_seconds: float
    """When the iteration began, in seconds since the start of the recording."""
    milliseconds: float
    cpu_milliseconds: float
    """CPU time of the thread. If it is much less than the elapsed time, the thread was blocked, or another process
    ran."""
    gc_milliseconds: float
    """Time spent in garbage collection."""
    sockets: int
    """Number of sockets that were ready."""
    cause: str
    """The function that was sampled most often: one of this project if any was on the stack."""


class LoopTracer:
    """Records iterations. Only one may exist, because it uses SIGALRM."""

    def __init__(self) -> None:
        self.iterations: list[Iteration] = []
        self._is_recording = False
        self._started = self._began = self._cpu = self._gc_began = self._gc_seconds = 0.0
        self._sockets = 0
        self._sampled: Counter[str] = Counter()
        signal.signal(signal.SIGALRM, self._on_sample)
        gc.callbacks.append(self._on_gc)

    def close(self) -> None:
        self._is_recording = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        gc.callbacks.remove(self._on_gc)

    def new_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(_TracedSelector(self))

    def start(self) -> None:
        self.iterations.clear()
        self._started, self._began, self._is_recording = time.perf_counter(), 0.0, True

    def stop(self) -> list[Iteration]:
        self._is_recording = False
        return self.iterations

    def begin_iteration(self, sockets: int) -> None:
        if not self._is_recording:
            return
        self._sockets, self._gc_seconds = sockets, 0.0
        self._sampled.clear()
        # The processor's time is read within the other readings, so that it is never the longer one.
        self._began, self._cpu = time.perf_counter(), time.thread_time()
        signal.setitimer(signal.ITIMER_REAL, THRESHOLD_SECONDS, SAMPLE_SECONDS)

    def end_iteration(self) -> None:
        began, self._began = self._began, 0.0
        if not began:
            return
        cpu, seconds = time.thread_time() - self._cpu, time.perf_counter() - began
        signal.setitimer(signal.ITIMER_REAL, 0)
        if seconds < THRESHOLD_SECONDS:
            return
        ((cause, _),) = self._sampled.most_common(1) or [("ended before it was sampled", 0)]
        total, cpu, gc_ms = (round(1e3 * value, 3) for value in (seconds, cpu, self._gc_seconds))
        at = round(began - self._started, 4)
        self.iterations.append(Iteration(at, total, cpu, gc_ms, self._sockets, cause))

    def _on_sample(self, number: int, frame: FrameType | None) -> None:
        if self._began and frame is not None:
            self._sampled[describe(frame)] += 1

    def _on_gc(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._gc_began = time.perf_counter()
        else:
            self._gc_seconds += time.perf_counter() - self._gc_began


class _TracedSelector(selectors.DefaultSelector):
    """The loop's wait for events, between two iterations."""

    def __init__(self, tracer: LoopTracer) -> None:
        super().__init__()
        self._tracer = tracer

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._tracer.end_iteration()
        ready = super().select(timeout)
        self._tracer.begin_iteration(len(ready))
        return ready


def describe(frame: FrameType) -> str:
    """Names the innermost function of this project on the stack, or else the innermost function."""
    own: FrameType | None = frame
    while own is not None and OWN_CODE not in own.f_code.co_filename:
        own = own.f_back
    code = (own or frame).f_code
    file = code.co_filename
    return f"{file[file.rfind(OWN_CODE) + 1 :] if own else Path(file).name} {code.co_qualname}"


def main() -> int:
    file = Path(sys.argv.pop())
    import uvloop
    from pointsman_gateway.__main__ import main as gateway

    tracer = LoopTracer()
    replaced: Any = uvloop
    replaced.new_event_loop = tracer.new_loop

    def write() -> None:
        unfinished = file.with_suffix(".part")
        unfinished.write_text(json.dumps([asdict(one) for one in tracer.stop()]))
        unfinished.rename(file)

    signal.signal(START, lambda number, frame: tracer.start())
    signal.signal(STOP, lambda number, frame: write())
    return gateway()


if __name__ == "__main__":
    sys.exit(main())
