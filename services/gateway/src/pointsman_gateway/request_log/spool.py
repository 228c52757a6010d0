"""Feedback on disk while Redis is away: what was taken is there after `kill -9`, and goes on when Redis is back.

Each gateway writes a file of its own, which it holds locked; a file that nobody holds was left behind, and whoever
finds it sends it on. A line is written in one piece and synchronised before it is acknowledged, so at most a last line
is torn, of which nobody was told that it is kept.
"""

import asyncio
import json
import logging
import os
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from pointsman_servicekit.errors import Unavailable

from pointsman_gateway.domain import Feedback
from pointsman_gateway.request_log.wal import LockedFile, lock_file

log = logging.getLogger(__name__)

MAX_FEEDBACK_BYTES = 16 * 1024 * 1024
"""That one gateway keeps, on disk and in memory."""


@dataclass(frozen=True, slots=True)
class FeedbackRecord:
    feedback: Feedback
    unix_ms: int
    """When it was taken."""
    call: str = ""
    """Names the call that brought it, whose tries are one; empty: an older gateway kept it."""


class FeedbackQueue:
    """One folder; several gateways may share it."""

    def __init__(self, folder: Path, tell: Callable[[int], None], most_bytes: int = MAX_FEEDBACK_BYTES) -> None:
        """`tell` hears of each change of the bytes that wait. Raises OSError where the folder cannot be written."""
        self._folder = folder
        self._tell = tell
        self._most = most_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._own = _create(folder)
        self._left_behind: list[LockedFile] = []
        self._waiting: deque[FeedbackRecord] = deque()
        """What the files hold."""
        self._changing = asyncio.Lock()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def keep(self, spooled: FeedbackRecord) -> None:
        """Returns once it is on disk. Raises Unavailable ("spool_full", "spool_unwritable")."""
        await asyncio.shield(self._keep(spooled))  # what has begun to be written is written, even if nobody waits

    async def send_on(self, send: Callable[[FeedbackRecord], Awaitable[bool]]) -> None:
        """Gives all that waits to `send`, oldest first, until it returns True. What that raises, this raises."""
        kept: list[FeedbackRecord] = []
        try:
            while self._waiting:
                if not await send(self._waiting[0]):
                    kept.append(self._waiting[0])
                self._waiting.popleft()
        finally:
            self._waiting.extendleft(reversed(kept))
        async with self._changing:
            if not self._waiting and self._bytes:
                await asyncio.to_thread(self._clear)
                self._tell(self._bytes)

    async def adopt(self) -> None:
        """Takes over what gateways that are gone have left behind."""
        async with self._changing:
            for file, lines in await asyncio.to_thread(_left_behind, self._folder):
                self._left_behind.append(file)
                self._waiting += lines
            self._tell(self._bytes)

    def close(self) -> None:
        """Leaves what waits to the next gateway."""
        for file in self._left_behind:
            file.close()
        if self._own.size:
            self._own.close()
        else:
            self._own.remove()

    @property
    def _bytes(self) -> int:
        return self._own.size + sum(file.size for file in self._left_behind)

    async def _keep(self, spooled: FeedbackRecord) -> None:
        line = _encode(spooled)
        async with self._changing:
            if self._bytes + len(line) > self._most:
                raise Unavailable(
                    f"Redis is away and {self._bytes} bytes of feedback wait for it already, of {self._most}",
                    code="spool_full",
                    retry_after=10.0,
                )
            try:
                await asyncio.to_thread(self._own.append_for_good, line)
            except OSError as error:
                raise Unavailable(
                    f"Redis is away and feedback cannot be kept on disk: {error}",
                    code="spool_unwritable",
                    retry_after=10.0,
                ) from error
            self._waiting.append(spooled)
            self._tell(self._bytes)

    def _clear(self) -> None:
        self._own.truncate(0)
        self._own.sync()
        while self._left_behind:
            self._left_behind.pop().remove()


def _create(folder: Path) -> LockedFile:
    while True:
        file = lock_file(folder / f"feedback-{secrets.token_hex(6)}.jsonl", os.O_CREAT | os.O_EXCL)
        if file:
            directory = os.open(folder, os.O_RDONLY)
            os.fsync(directory)  # its name is on disk too
            os.close(directory)
            return file


def _left_behind(folder: Path) -> list[tuple[LockedFile, list[FeedbackRecord]]]:
    held = [lock_file(path) for path in sorted(folder.glob("feedback-*.jsonl"))]
    files = [(file, _decode(file)) for file in held if file]
    for file, _ in files:
        if not file.size:
            file.remove()
    return [(file, lines) for file, lines in files if file.size]


def _encode(spooled: FeedbackRecord) -> bytes:
    return json.dumps({"unix_ms": spooled.unix_ms, "call": spooled.call, **asdict(spooled.feedback)}).encode() + b"\n"


def _decode(file: LockedFile) -> list[FeedbackRecord]:
    *lines, _torn = file.read().split(b"\n")
    spooled = []
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
            unix_ms, call = values.pop("unix_ms"), values.pop("call", "")
            spooled.append(FeedbackRecord(Feedback(**values), unix_ms, call))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            log.error("%s:%d is no feedback and is passed over: %s", file.path, number, error)
    return spooled
