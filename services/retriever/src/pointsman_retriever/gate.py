"""Many may look at a thing, or one may change it."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class RWLock:
    """For threads. Who wants to change is let in before those who come to look after it."""

    def __init__(self) -> None:
        self._moved = Condition()
        self._looking = 0
        self._changing = False
        self._waiting_to_change = 0

    @contextmanager
    def looking(self) -> Iterator[None]:
        with self._moved:
            self._moved.wait_for(lambda: not self._changing and not self._waiting_to_change)
            self._looking += 1
        try:
            yield
        finally:
            with self._moved:
                self._looking -= 1
                self._moved.notify_all()

    @contextmanager
    def changing(self) -> Iterator[None]:
        with self._moved:
            self._waiting_to_change += 1
            try:
                self._moved.wait_for(lambda: not self._changing and not self._looking)
            finally:
                self._waiting_to_change -= 1
            self._changing = True
        try:
            yield
        finally:
            with self._moved:
                self._changing = False
                self._moved.notify_all()
