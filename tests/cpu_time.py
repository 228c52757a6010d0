"""The CPU time of a call, for tests of how it grows with the input."""

from collections.abc import Callable
from time import thread_time


def cpu_seconds(call: Callable[[], object], repetitions: int = 3) -> float:
    """Returns the smallest CPU time of several calls, in seconds; other processes hardly influence it."""
    return min(_seconds(call) for _ in range(repetitions))


def _seconds(call: Callable[[], object]) -> float:
    began = thread_time()
    call()
    return thread_time() - began
