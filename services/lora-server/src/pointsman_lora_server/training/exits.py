"""How a run ends early: errors that exit with code 1, and signals that stop it cleanly.

TrainingError
└── DataError
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingError(Exception):
    """The training run cannot be done as requested; the message is meant for the user."""


class DataError(TrainingError):
    """The data cannot be trained on; the message names file and line, and says what would be right."""


def set_signal_handler(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    """Sets the handler of the signals that stop a run (`SIGNALS`)."""
    for number in SIGNALS:
        signal.signal(number, handler)


@contextmanager
def delaying_signals() -> Iterator[None]:
    """Delivers signals that arrive during the block at its end; usable in the main thread only."""
    received: list[int] = []
    handlers = [signal.signal(number, lambda which, _: received.append(which)) for number in SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(SIGNALS, handlers, strict=True):
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])
