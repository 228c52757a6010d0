"""The CPU time of a call, for tests of how it grows with the input."""

from collections.abc import Callable
from time import thread_time


def cpu_seconds(call: Callable[[], object], repetitions: int = 3) -> float:
    """Returns the least CPU time of several calls, which other processes hardly influence."""
    return min(_seconds(call) for _ in range(repetitions))


def _seconds(call: Callable[[], object]) -> float:
    began = thread_time()
    call()
    return thread_time() - began
