"""What asks a run to stop, SIGINT or SIGTERM, ends it cleanly as a KeyboardInterrupt; amid some things it waits."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def on_signals(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    """Has all of `SIGNALS` handled so."""
    for number in SIGNALS:
        signal.signal(number, handler)


@contextmanager
def held() -> Iterator[None]:
    """What comes meanwhile comes at the end of the block. For the main thread only, as all of `signal` is."""
    came: list[int] = []
    before = [signal.signal(number, lambda which, _: came.append(which)) for number in SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])
