"""What a gateway that is gone has left on disk of its receipts comes to the journal, each once, with its evidence."""

import json
import resource
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles.receipts import receipts_in
from doubles.remembering import ADAPTED, REQUEST, Desk, decision, decisions_in, desk_at, receipt
from doubles.valkey import Valkey
from pointsman_gateway.config.schema import JournalConfig
from pointsman_gateway.domain import Caller, Considered, Message, Path as Way, Request, Sampling, Undecided
from pointsman_gateway.journal import keys
from pointsman_gateway.journal.counterfoil import from_line, of_decided, of_undecided, to_line
from pointsman_gateway.journal.counterfoil_book import PAGE_BYTES
from pointsman_gateway.journal.entry import Noted, to_entry, to_undecided_json
from pointsman_gateway.journal.evidence import tally_of
from pointsman_gateway.journal.recorder import MOST_WAITING
from pointsman_servicekit.errors import Unavailable
from redis.asyncio import Redis

TURNED_AWAY = Undecided("r1", "chat", "rate_limited", "caller", {"total": 0.001}, Caller("k1", "t1"), counted=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("receipts-*"))


def page_in(folder: Path) -> Path:
    """The one that is written on first."""
    (page,) = folder.glob("receipts-*.a.jsonl")
    return page


async def ids_in(valkey: Valkey) -> list[str]:
    return [entry["id"] for entry in await decisions_in(valkey.url)]


async def answers_in(desk: Desk) -> int:
    return sum(named.get("answers", 0) for named in (await desk.store.evidence(keys.today())).values())


@asynccontextmanager
async def heir(valkey: Valkey, folder: Path) -> AsyncIterator[Desk]:
    """Who has taken over what was left."""
    async with desk_at(valkey.url, folder) as desk:
        await desk.recovery.recover()
        yield desk


async def test_what_was_noted_and_not_written_is_recovered_once(valkey: Valkey, folder: Path) -> None:
    async with desk_at(valkey.url, folder) as gone:
        gone.note("d1", "d2")
        gone.recorder.note_undecided(TURNED_AWAY)
        await gone.recorder.write()
        gone.note("d3", "d4")
        gone.recorder.note_undecided(replace(TURNED_AWAY, request_id="r2"))
    async with heir(valkey, folder) as desk:
        assert await ids_in(valkey) == ["d1", "d2", "d3", "d4"]
        assert [one["request_id"] for one in (await receipts_in(valkey.url)).undecided] == ["r1", "r2"]
        assert await answers_in(desk) == 4
        assert desk.metric("pointsman_journal_recovered_total") == 3
        assert len(files_in(folder)) == 2  # its own
        await desk.recovery.recover()
        assert len(await ids_in(valkey)) == 4
    assert files_in(folder) == []


async def test_what_a_running_gateway_has_noted_is_left_alone(valkey: Valkey, folder: Path) -> None:
    async with desk_at(valkey.url, folder) as one, desk_at(valkey.url, folder) as other:
        one.note("d1")
        await other.recovery.recover()
        assert await ids_in(valkey) == []
        await one.recorder.write()
    async with heir(valkey, folder) as desk:
        assert (await ids_in(valkey), await answers_in(desk)) == (["d1"], 1)


async def test_half_a_line_at_the_end_is_passed_over_and_so_is_nonsense(valkey: Valkey, folder: Path) -> None:
    async with desk_at(valkey.url, folder) as gone:
        gone.note("d1", "d2")
    page = page_in(folder)
    first, second, _ = page.read_bytes().split(b"\n")
    page.write_bytes(b"\n".join((first, b'["x"]', b"nonsense", second[: len(second) // 2])))
    async with heir(valkey, folder):
        assert await ids_in(valkey) == ["d1"]


async def test_a_batch_of_the_gateway_that_is_gone_may_still_arrive(valkey: Valkey, folder: Path) -> None:
    """It was sent when Redis hung: then Redis has both to do, in whichever order."""
    async with desk_at(valkey.url, folder) as gone:
        gone.note("d1")
        await gone.recorder.write()
        valkey.hang()
        gone.note("d2")
        gone.recorder.note_undecided(TURNED_AWAY)
        with pytest.raises(Unavailable):
            await gone.recorder.write()
        gone.note("d3")
        valkey.go_on()
    async with heir(valkey, folder) as desk:
        assert await ids_in(valkey) == ["d1", "d2", "d3"]
        assert len((await receipts_in(valkey.url)).undecided) == 1
        assert await answers_in(desk) == 3


async def test_a_late_batch_is_not_written_after_its_receipts_are_recovered(valkey: Valkey, folder: Path) -> None:
    async with desk_at(valkey.url, folder) as gone:
        gone.note("d1")
        gone.recorder.note_undecided(TURNED_AWAY)
        batch = gone.recorder._next_batch()  # numbered, and not sent yet
        await gone.recorder.write()
        late = batch
    assert late is None or late
