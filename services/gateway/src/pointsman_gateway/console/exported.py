"""Older decisions for the console, from exported Parquet files.

A child process of the lab reads them: DuckDB would need the memory and the processor time of the gateway's requests.
docs/decisions/0050-older-pages-by-a-child-process.md has the reasons.
"""

import asyncio
import json
import logging
import re
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import asdict
from typing import Any

from pointsman_servicekit.errors import FailedPrecondition, Unavailable

from pointsman_gateway.console.search import DecisionQuery
from pointsman_gateway.domain.decision import DECISION_ID_PREFIX

log = logging.getLogger(__name__)

READER = (sys.executable, "-m", "pointsman_lab.parquet.history")
MAX_SECONDS = 30.0
"""Time limit for reading one page, including the wait for another page that is being read."""
MAX_SECONDS_TO_END = 2.0
"""Maximum number of seconds to wait for the end of a child process that was killed."""
MAX_LINE_BYTES = 16 * 2**20
CURSOR = "records:"
CLOCK_SKEW_MS = 2_000
"""Maximum number of milliseconds by which a gateway's clock may be ahead of the clock of Redis."""
_SETTING = "POINTSMAN_GATEWAY_CONSOLE_RECORDS"
_ID = re.compile(rf"{DECISION_ID_PREFIX}([0-9a-f]{{11}})[0-9a-f]{{12}}")
"""Matches a decision's id. The group is the time of the decision: Unix milliseconds in hexadecimal digits."""
_MS_PER_DAY = 86_400_000

Place = tuple[int, str]
"""The position of a decision in the order of all decisions: its time in Unix milliseconds, and its id."""


def to_cursor(place: Place) -> str:
    return f"{CURSOR}{place[0]}:{place[1]}"


def from_cursor(cursor: str) -> Place:
    """Returns (Unix milliseconds, decision id) from a page cursor made by `to_cursor`.

    Raises ValueError if the text has no number in front of the id.
    """
    unix_ms, _, name = cursor.removeprefix(CURSOR).partition(":")
    return int(unix_ms), name


class ExportedDecisions:
    """Reads decisions that were exported as Parquet files below a folder or URL, by one child process at a time.

    Each method raises FailedPrecondition ("no_records") if there are no files or no package to read them, and
    Unavailable ("records_unavailable") if they cannot be read within `MAX_SECONDS`. The error does not say why, since
    the reason may name tenants; the gateway's log does.
    """

    def __init__(self, location: str, reader: Sequence[str] = READER, max_seconds: float = MAX_SECONDS) -> None:
        self._location = location
        self._reader = reader
        self._max_seconds = max_seconds
        self._one = asyncio.Lock()

    @asynccontextmanager
    async def older(
        self, before: Place, tenant: str, query: DecisionQuery
    ) -> AsyncIterator[AsyncIterator[Mapping[str, Any]]]:
        """Yields an iterator over batches of the decisions that fit a query and come before the position `before` (Unix
        milliseconds, id), newest first.

        A batch is a dict: `found` has the decisions, each as [Unix milliseconds, id, JSON text], and `at` is the
        position down to which all decisions have been searched. If `tenant` is "", all tenants' decisions are read.
        """
        wanted = {"wanted": "decisions", "before": before, "tenant": tenant, "query": asdict(query)}
        async with self._reading(wanted) as lines:
            yield lines

    async def find(self, decision_id: str, tenant: str) -> Mapping[str, Any] | None:
        """Returns a dict of a decision's log `entry` (JSON) and the `feedback` on it; None if it is not among the
        files.

        If `tenant` is "", the decision may belong to any tenant.
        """
        made = _ID.fullmatch(decision_id)
        if made is None:
            return None
        # A record is in the partition of the day on which its request ended.
        days = [time.strftime("%Y-%m-%d", time.gmtime((int(made[1], 16) + of) / 1000)) for of in (0, _MS_PER_DAY)]
        async with self._reading({"wanted": "decision", "id": decision_id, "days": days, "tenant": tenant}) as lines:
            async for line in lines:
                return line
        return None

    @asynccontextmanager
    async def _reading(self, wanted: Mapping[str, Any]) -> AsyncIterator[AsyncIterator[Mapping[str, Any]]]:
        try:
            async with asyncio.timeout(self._max_seconds), self._one:
                process = await self._start()
                try:
                    async with aclosing(_lines(process, json.dumps({**wanted, "location": self._location}))) as lines:
                        yield lines
                finally:
                    with suppress(ProcessLookupError):
                        process.kill()
                    with suppress(TimeoutError):  # a process that waits for a disk cannot be killed
                        async with asyncio.timeout(MAX_SECONDS_TO_END):
                            await process.communicate()  # waiting alone does not end while output is unread
        except TimeoutError:
            log.warning("reading %s took more than %g s", self._location, self._max_seconds)
            raise Unavailable(
                f"the exported decisions in {_SETTING} were not read within {self._max_seconds:g} s: "
                "the store may be slow, or somebody else reads them; try again",
                code="records_unavailable",
            ) from None

    async def _start(self) -> asyncio.subprocess.Process:
        try:
            return await asyncio.create_subprocess_exec(
                *self._reader,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=MAX_LINE_BYTES,
            )
        except OSError as error:  # no memory, or too many open files
            raise _failed("", str(error)) from error


async def _lines(process: asyncio.subprocess.Process, question: str) -> AsyncGenerator[Mapping[str, Any]]:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    with suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(question.encode())
        await process.stdin.drain()
    process.stdin.close()
    async for text in process.stdout:
        try:
            line = json.loads(text)
        except ValueError:  # the process was killed while it wrote the line
            break
        if "error" in line:
            raise _failed(line["code"], line["error"])
        if "end" in line:
            return
        yield line
    reason = (await process.stderr.read()).decode(errors="replace").strip()
    raise _failed("no_module" if "No module named" in reason else "", reason or "the reader was killed")


def _failed(cause: str, reason: str) -> FailedPrecondition | Unavailable:
    log.warning("exported decisions cannot be read: %s", reason)
    if cause == "no_module":
        message = f"{_SETTING} needs a package that is not installed: pip install 'pointsman[parquet]'"
        return FailedPrecondition(message, code="no_records")
    if cause == "bad_records":
        message = (
            f"there are no exported decisions in {_SETTING}: it must be the POINTSMAN_EXPORT_TARGET of an exporter"
        )
        return FailedPrecondition(message, code="no_records")
    return Unavailable(
        f"the exported decisions in {_SETTING} cannot be read now; the gateway's log has the reason",
        code="records_unavailable",
    )
