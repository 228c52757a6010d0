"""Wraps a shared store: connects at the first call, and lets calls fail at once for a while after the store did not
answer.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pointsman_servicekit.errors import PointsmanError, Unavailable

from pointsman_retriever.domain import CollectionId, CollectionInfo, EncodedDocument, Quota
from pointsman_retriever.shared.stores import SharedChange, SharedReader, SharedStore

AWAY = "store_unavailable"
"""The error code of a shared store that does not answer. After an error with this code, further calls fail at once for
a while.
"""
MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.05, 30.0


class FailFastStore:
    """Wraps a shared store, which is opened at the first call, and passes all calls to it; implements SharedStore.

    After a call that failed with the code AWAY, calls fail at once for as long as the failed call took, but at most for
    MAX_PAUSE_SECONDS. Then one call is sent to the store, and other calls fail at once until it has succeeded. So few
    threads wait for a store that hangs.
    """

    def __init__(self, connect: Callable[[], SharedStore]) -> None:
        self._connect = connect
        self._store: SharedStore | None = None
        self._opening = threading.Lock()
        self._lock = threading.Lock()  # of the three below
        self._failure: PointsmanError | None = None
        self._paused_until = 0.0
        self._is_tried = False

    def collections(self) -> Sequence[CollectionInfo]:
        with self._trying() as store:
            return store.collections()

    def create(self, info: CollectionInfo) -> bool:
        with self._trying() as store:
            return store.create(info)

    def drop(self, collection: CollectionId) -> bool:
        with self._trying() as store:
            return store.drop(collection)

    def rename(self, collection: CollectionId, to: CollectionId, above_version: int) -> bool:
        with self._trying() as store:
            return store.rename(collection, to, above_version)

    def configure(
        self, collection: CollectionId, quota: Quota | None = None, search_settings: str | None = None
    ) -> CollectionInfo:
        with self._trying() as store:
            return store.configure(collection, quota, search_settings)

    @contextmanager
    def changing(self, collection: CollectionId, prepared: Sequence[EncodedDocument] = ()) -> Iterator[SharedChange]:
        with self._trying() as store, store.changing(collection, prepared) as change:
            self._note_success()  # other calls need not wait for the end of a long one
            yield change

    @contextmanager
    def reading(self, collection: CollectionId) -> Iterator[SharedReader]:
        with self._trying() as store, store.reading(collection) as reader:
            self._note_success()
            yield reader

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    @contextmanager
    def _trying(self) -> Iterator[SharedStore]:
        """Yields the store; notes whether the block, which calls it, fails because the store does not answer.

        Raises the last failure if the store is not to be called now.
        """
        is_trial = self._admit()
        try:
            store = self._open()
            with self._noting():
                yield store
        finally:
            if is_trial:
                with self._lock:
                    self._is_tried = False

    @contextmanager
    def _noting(self) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        except PointsmanError as error:
            if error.code == AWAY:
                self._note_failure(error, time.monotonic() - started)
            else:
                self._note_success()  # it has answered
            raise
        self._note_success()

    def _admit(self) -> bool:
        """Returns whether this call is the one that tries a store that has failed; raises if there is another one."""
        with self._lock:
            if self._failure is None:
                return False
            left = self._paused_until - time.monotonic()
            if left > 0 or self._is_tried:
                raise Unavailable(self._failure.message, code=AWAY, retry_after=max(left, 1.0))
            self._is_tried = True
            return True

    def _open(self) -> SharedStore:
        with self._opening:
            if self._store is None:
                # Another call may have failed to connect while this one waited for it.
                with self._lock:
                    if self._failure is not None and time.monotonic() < self._paused_until:
                        raise Unavailable(self._failure.message, code=AWAY, retry_after=1.0)
                with self._noting():
                    self._store = self._connect()
            return self._store

    def _note_failure(self, error: PointsmanError, seconds: float) -> None:
        with self._lock:
            until = time.monotonic() + min(max(seconds, MIN_PAUSE_SECONDS), MAX_PAUSE_SECONDS)
            self._failure, self._paused_until = error, max(self._paused_until, until)

    def _note_success(self) -> None:
        with self._lock:
            self._failure = None
