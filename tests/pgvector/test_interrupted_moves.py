"""Moves between the data folder and the shared store whose last transaction fails, or whose retriever is gone then."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from pointsman.v1 import retriever_pb2 as pb

from tests.pgvector.conftest import Run
from tests.pgvector.relay import Relay
from tests.retriever.client import Client, Refusal, Start

PREFIX = "pointsman_moves"
EXECUTE = b"E\0\0\0\x09\0\0\0\0\0"  # of PostgreSQL's protocol
RENAMES = (b"SET tenant = $1, name = $2", b"SET name = $1, tenant = $2")
NOTE = pb.Document(id="a", text="A dog needs a ticket")
LATE = pb.Document(id="b", text="A cat travels free")


@dataclass
class LastCommit:
    """Recognizes the commit of the transaction that renames a collection at the end of a move.

    The client sends the statement first, and in a later message the order to execute it, which is the one that counts.
    """

    on_commit: Callable[[], None] = lambda: None
    is_renaming: bool = False
    is_prepared: bool = False
    is_over: bool = False

    def __call__(self, sent: bytes) -> bool:
        self.is_renaming = self.is_renaming or any(one in sent for one in RENAMES)
        if self.is_over or not self.is_renaming:
            return False
        self.is_prepared = self.is_prepared or b"commit" in sent
        if not self.is_prepared or EXECUTE not in sent:
            return False
        self.is_over = True
        self.on_commit()
        return True


@pytest.fixture
def shared(url: str, run: Run, relay: Relay) -> dict[str, Any]:
    run(f"DROP SCHEMA IF EXISTS {PREFIX} CASCADE")
    return {
        "shared_store": "pgvector",
        "shared_store_url": f"postgresql://postgres@127.0.0.1:{relay.port}/postgres",
        "shared_store_prefix": PREFIX,
        "shared_store_timeout": 2.0,
    }


@pytest.fixture
def direct(shared: dict[str, Any], url: str) -> dict[str, Any]:
    """The settings of a retriever that reaches the shared store without the relay."""
    return {**shared, "shared_store_url": url}


async def move(client: Client, store: str) -> None:
    async for _ in client.stub.Move(pb.MoveRequest(collection="notes", store=store)):
        pass


async def create(client: Client, store: str) -> None:
    await client.stub.CreateCollection(pb.CreateCollectionRequest(name="notes", store=store))
    await client.upsert(NOTE)


@pytest.mark.parametrize(("before", "after"), [("local", "shared"), ("shared", "local")])
async def test_a_move_whose_last_commit_was_lost_is_undone_and_can_be_repeated(
    start: Start,
    shared: dict[str, Any],
    direct: dict[str, Any],
    relay: Relay,
    refusal: Refusal,
    tmp_path: Path,
    before: str,
    after: str,
) -> None:
    async with start(data=tmp_path / "a", **shared) as client, start(data=tmp_path / "b", **direct) as other:
        await create(client, before)
        relay.cut_before = LastCommit()
        assert (await refusal(move(client, after))).code == "store_unavailable"
        assert (await client.collection()).store == before
        await client.upsert(LATE)
        assert sorted(await client.found("travels")) == ["a", "b"]
        if before == "shared":
            assert sorted(await other.found("travels")) == ["a", "b"]
        else:
            assert (await refusal(other.search("dog"))).code == "unknown_collection"
        await move(client, after)
        info = await client.collection()
        assert (info.store, info.documents) == (after, 2)
        assert sorted(await client.found("travels")) == ["a", "b"]
        assert (after == "shared") == ("notes" in await names(other))


@pytest.mark.parametrize(("before", "after"), [("local", "shared"), ("shared", "local")])
async def test_a_move_whose_last_commit_succeeded_without_an_answer_is_done(
    start: Start,
    shared: dict[str, Any],
    direct: dict[str, Any],
    relay: Relay,
    tmp_path: Path,
    before: str,
    after: str,
) -> None:
    async with start(data=tmp_path / "a", **shared) as client, start(data=tmp_path / "b", **direct) as other:
        await create(client, before)
        relay.cut_after = LastCommit()
        await move(client, after)
        await client.upsert(LATE)
        info = await client.collection()
        assert (info.store, info.documents) == (after, 2)
        assert (after == "shared") == ("notes" in await names(other))


@pytest.mark.parametrize(("before", "after"), [("local", "shared"), ("shared", "local")])
@pytest.mark.parametrize("is_committed", [False, True])
@pytest.mark.parametrize("is_restarted", [False, True])
async def test_a_move_of_which_it_is_not_known_whether_it_was_committed_is_settled_later(
    start: Start,
    shared: dict[str, Any],
    relay: Relay,
    refusal: Refusal,
    before: str,
    after: str,
    is_committed: bool,
    is_restarted: bool,
) -> None:
    def fall_silent() -> None:
        relay.is_silent = True

    async with start(**shared) as client:
        await create(client, before)
        cut = LastCommit(fall_silent)
        if is_committed:
            relay.cut_after = cut
        else:
            relay.cut_before = cut
        assert (await refusal(move(client, after))).code == "store_unavailable"
        assert (await refusal(client.upsert(LATE))).code == "store_unavailable"
        if not is_restarted:
            relay.is_silent = False
            await check(client, after if is_committed else before)
    if is_restarted:
        relay.is_silent = False
        async with start(**shared) as client:
            await check(client, after if is_committed else before)


@pytest.mark.parametrize(("before", "after"), [("local", "shared"), ("shared", "local")])
async def test_a_move_whose_last_commit_reaches_the_server_late_loses_nothing(
    start: Start, shared: dict[str, Any], relay: Relay, refusal: Refusal, before: str, after: str
) -> None:
    async with start(**shared) as client:
        await create(client, before)
        relay.hold_back = LastCommit()
        assert (await refusal(move(client, after))).code == "store_unavailable"
        relay.deliver()
        await check(client, after)


async def check(client: Client, store: str) -> None:
    """Waits until the collection is used again, and checks that it is where it should be, and there only."""
    for _ in range(100):
        try:
            await client.upsert(LATE)
            break
        except grpc.aio.AioRpcError:
            await asyncio.sleep(0.1)
    info = await client.collection()
    assert (info.store, info.documents, info.problem) == (store, 2, "")
    assert sorted(await client.found("travels")) == ["a", "b"]
    await client.stub.DeleteCollection(pb.DeleteCollectionRequest(name="notes"))
    assert await names(client) == []


async def names(client: Client) -> list[str]:
    listed = await client.stub.ListCollections(pb.ListCollectionsRequest())
    return [one.name for one in listed.collections]


async def test_writes_to_other_collections_do_not_wait_for_the_end_of_a_move(
    start: Start, shared: dict[str, Any], relay: Relay, refusal: Refusal
) -> None:
    is_silent = threading.Event()

    def fall_silent() -> None:
        relay.is_silent = True
        is_silent.set()

    async with start(**shared) as client:
        await create(client, "local")
        await client.stub.CreateCollection(pb.CreateCollectionRequest(name="others", store="local"))
        relay.cut_before = LastCommit(fall_silent)
        moving = asyncio.ensure_future(refusal(move(client, "shared")))
        await asyncio.to_thread(is_silent.wait)
        async with asyncio.timeout(1.0):
            await client.upsert(LATE, collection="others")
        assert not moving.done()
        relay.is_silent = False
        await moving
