"""How a training run ends early: by an error, after which the trainer exits with code 1, or by a signal.

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
    """Sets `handler` for the signals that stop a training run, SIGINT and SIGTERM."""
    for number in SIGNALS:
        signal.signal(number, handler)


@contextmanager
def delaying_signals() -> Iterator[None]:
    """Returns a context manager that delays SIGINT and SIGTERM: if any arrive during its block, the first one is
    delivered after the block, unless the block raises.

    It can only be used in the main thread.
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
