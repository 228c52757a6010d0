"""How a run ends early: errors, after which the trainer exits with code 1, and signals.

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
    """The data cannot be trained on; the message names the file and the lines if single rows are wrong."""


def set_signal_handler(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    """Sets the handler of the signals that stop a run (`SIGNALS`)."""
    for number in SIGNALS:
        signal.signal(number, handler)


@contextmanager
def delaying_signals() -> Iterator[None]:
    """Delays `SIGNALS` that arrive during the block: the first one is delivered after it, unless the block raises.

    Usable in the main thread only.
    """
    received: list[int] = []
    handlers = [signal.signal(number, lambda which, _: received.append(which)) for number in SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(SIGNALS, handlers, strict=True):
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])
