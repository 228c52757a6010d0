"""What a client says in one call, message by message, until it is read."""

import asyncio
from collections import deque
from typing import Protocol

import grpc

from pointsman_servicekit.grpc_wire.messages import PREFIX_BYTES, BadMessage, MessageReader, Raw

MESSAGE_BYTES = 100
"""That a message which waits takes beyond its own."""


class Storage(Protocol):
    """All that waits on one connection."""

    held: int
    """Bytes."""
    most_held: int


class Inbox:
    """Of one call."""

    __slots__ = ("_held", "_messages", "_reader", "_storage", "_waiting", "full")

    def __init__(self, reader: MessageReader, storage: Storage) -> None:
        self.full = False
        """No more comes."""
        self._reader = reader
        self._storage = storage
        self._messages: deque[Raw] = deque()
        self._held = 0
        self._waiting: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        """Messages that are whole."""
        return len(self._messages)

    @property
    def unfinished(self) -> bool:
        """Whether a part of a message is there."""
        return self._reader.unfinished

    def put(self, data: bytes) -> None:
        """Raises BadMessage."""
        self._count(len(data))
        messages = self._reader.read(data)
        if messages:
            self._messages.extend(messages)
            self._count(MESSAGE_BYTES * len(messages))
            self._wake()
        storage = self._storage
        if storage.held > storage.most_held:
            told = f"{storage.held} bytes of requests wait on this connection; at most {storage.most_held}"
            raise BadMessage(grpc.StatusCode.RESOURCE_EXHAUSTED, told)

    def take(self) -> bytes:
        """The next message, which must be there. Raises BadMessage."""
        raw = self._messages.popleft()
        self._count(-MESSAGE_BYTES - PREFIX_BYTES - len(raw[1]))
        return self._reader.inflated(raw)

    async def filled(self) -> None:
        """Waits until there is news. One at a time."""
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None

    def close(self) -> None:
        """Nothing more comes."""
        self.full = True
        self._wake()

    def empty(self) -> None:
        """Nobody reads any more."""
        self._messages.clear()
        self._count(-self._held)
        self._wake()

    def _count(self, more: int) -> None:
        self._held += more
        self._storage.held += more

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
