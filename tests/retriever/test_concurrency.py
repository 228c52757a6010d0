"""Searches and changes at the same time."""

import asyncio
import threading
from collections.abc import Sequence

import grpc
import pytest
from pointsman.v1 import retriever_pb2 as pb
from pointsman_embedding import MiniLM
from pointsman_retriever.domain import Vectors
from pointsman_retriever.gate import RWLock
from pointsman_retriever.workers import ThreadPool


class PausingModel:
    """The real model, which waits at texts that say PAUSE until it is let go on."""

    def __init__(self, model: MiniLM) -> None:
        self.fingerprint, self.dimensions, self.tokenizer = model.fingerprint, model.dimensions, model.tokenizer
        self.reached = threading.Event()
        self.go_on = threading.Event()
        self._model = model

    def embed(self, texts: Sequence[str]) -> Vectors:
        if any("PAUSE" in text for text in texts):
            self.reached.set()
            assert self.go_on.wait(30)
        return self._model.embed(texts)


@pytest.fixture
def pausing(minilm: MiniLM):
    model = PausingModel(minilm)
    yield model
    model.go_on.set()


async def test_a_search_sees_a_document_before_or_after_its_replacement_and_never_between(client):
    await client.upsert(pb.Document(id="one", text="Edition 1 of the ladder."))
    done = asyncio.Event()

    async def look() -> int:
        looked = 0
        while not done.is_set():
            answer = await client.search("edition of the ladder", top_k=10)
            assert [passage.text for passage in answer.passages] == [f"Edition {answer.version} of the ladder."]
            looked += 1
        return looked

    looking = [asyncio.create_task(look()) for _ in range(4)]
    for edition in range(2, 60):
        written = await client.upsert(pb.Document(id="one", text=f"Edition {edition} of the ladder."))
        assert written.version == edition
    done.set()
    assert sum(await asyncio.gather(*looking)) > 4


async def test_changes_of_many_callers_are_each_kept(client):
    await asyncio.gather(
        *(client.upsert(pb.Document(id=f"caller-{n}", text=f"Left by caller {n}.")) for n in range(16))
    )
    collection = await client.collection()
    assert (collection.documents, collection.version) == (16, 16)


async def test_an_upsert_that_takes_long_holds_up_no_search(start, pausing: PausingModel):
    async with start(pausing) as client:
        await client.create()
        await client.upsert(pb.Document(id="quick", text="Quick."))
        slow = asyncio.create_task(client.upsert(pb.Document(id="slow", text="PAUSE")))
        await asyncio.to_thread(pausing.reached.wait, 30)
        assert await client.found("quick") == ["quick"]
        assert not slow.done()
        pausing.go_on.set()
        assert (await slow).version == 2


async def test_a_cancelled_search_is_given_up(start, pausing: PausingModel):
    async with start(pausing) as client:
        await client.create()
        call = client.stub.Search(pb.SearchRequest(collection="notes", query="PAUSE"))
        await asyncio.to_thread(pausing.reached.wait, 30)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await client.collection()  # behind the cancellation on the same connection: it has arrived by now
        pausing.go_on.set()
        await client.search("another")
        assert await client.metric('pointsman_retriever_search_seconds_count{collection="notes"}') == 1.0


async def test_a_cancelled_upsert_writes_nothing(start, pausing: PausingModel):
    async with start(pausing) as client:
        await client.create()
        call = client.stub.Upsert(
            pb.UpsertRequest(collection="notes", documents=[pb.Document(id="x", text="PAUSE here.")])
        )
        await asyncio.to_thread(pausing.reached.wait, 30)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await client.collection()  # behind the cancellation on the same connection: it has arrived by now
        pausing.go_on.set()
        assert (await client.upsert(pb.Document(id="y", text="After."))).version == 1


async def test_a_search_beyond_the_line_is_told_to_come_again(start, pausing: PausingModel, refusal):
    async with start(pausing, search_threads=1) as client:
        await client.create()
        calls = [asyncio.create_task(client.search("PAUSE")) for _ in range(257)]
        done, waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        (one,) = done
        error = await refusal(one)
        assert (error.grpc_status, error.code) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded")
        assert error.retry_after == 1.0
        pausing.go_on.set()
        assert all(answer.version == 0 for answer in await asyncio.gather(*waiting))


async def test_a_collection_deleted_while_an_upsert_is_prepared_refuses_it(start, pausing: PausingModel, refusal):
    async with start(pausing) as client:
        await client.create()
        upsert = asyncio.create_task(client.upsert(pb.Document(id="x", text="PAUSE")))
        await asyncio.to_thread(pausing.reached.wait, 30)
        await client.stub.DeleteCollection(pb.DeleteCollectionRequest(name="notes"))
        await client.create()  # of the same name, and yet another
        pausing.go_on.set()
        assert (await refusal(upsert)).code == "unknown_collection"
        assert (await client.collection()).documents == 0


async def test_work_cancelled_before_its_turn_is_never_done():
    workers, hold, done = ThreadPool("test", 1), threading.Event(), []
    first = asyncio.create_task(workers.run(hold.wait, 30))
    second = asyncio.create_task(workers.run(done.append, "second"))
    await asyncio.sleep(0)  # lets both take their place in the line
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    hold.set()
    await first
    workers.close()
    assert done == []


def test_who_wants_to_change_waits_for_those_who_look_and_goes_before_those_who_come_later():
    gate, order = RWLock(), []
    look_inside, change_asked = threading.Event(), threading.Event()

    def change() -> None:
        change_asked.set()
        with gate.changing():
            order.append("changed")

    def look_later() -> None:
        with gate.looking():
            order.append("looked later")

    with gate.looking():
        look_inside.set()
        changer = threading.Thread(target=change)
        changer.start()
        change_asked.wait(30)
        while not gate._waiting_to_change:
            pass
        later = threading.Thread(target=look_later)
        later.start()
        order.append("looked first")
    changer.join(30)
    later.join(30)
    assert order == ["looked first", "changed", "looked later"]
