"""Ingest streams: an outcome for each document, no cost for unchanged ones, removal of missing ones."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Sequence

import grpc
import pytest
from pointsman.v1 import retriever_pb2 as pb
from pointsman_embedding import MiniLM
from pointsman_retriever.collections.ingest import MAX_DOCUMENTS_IN_FLIGHT
from pointsman_retriever.domain import Vectors
from pointsman_retriever.limits import MAX_CONTENT_BYTES

from tests.retriever.client import Client, Refusal, Start
from tests.retriever.ingests import FAILED, UNCHANGED, WRITTEN, ingest, steps

SHED = "The ladder hangs in the shed, behind the rakes. " * 12
ATTIC = "The trunk stands in the attic, under the old maps. " * 12
CELLAR = "The wine lies in the cellar, where it is cool. " * 12
HOUSE = f"# House\n\n## Shed\n\n{SHED}\n\n## Attic\n\n{ATTIC}\n\n## Cellar\n\n{CELLAR}\n"


class CountingModel:
    """The real embedding model; it counts the texts that it embeds."""

    def __init__(self, model: MiniLM) -> None:
        self.fingerprint, self.dimensions, self.tokenizer = model.fingerprint, model.dimensions, model.tokenizer
        self.max_tokens, self.query_prefix, self.passage_prefix = model.max_tokens, "", ""
        self.texts: list[str] = []
        self._model = model

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.texts += texts
        return self._model.embed(texts)


Counting = tuple[Client, CountingModel]


@pytest.fixture
async def counting(start: Start, minilm: MiniLM) -> AsyncIterator[Counting]:
    model = CountingModel(minilm)
    async with start(model) as client:
        await client.create()
        yield client, model


async def test_each_document_gets_an_outcome_in_order_and_a_bad_one_stops_no_other(client: Client) -> None:
    done = await ingest(
        client,
        pb.Document(id="a", text="The kettle stands on the stove."),
        pb.Document(id="blank", text=" \n"),
        pb.Document(id="b", content=b"\xff\xfe\xff\x00\xd8", media_type="text/plain"),
        pb.Document(id="c", content=b"PK", media_type="application/zip"),
        pb.Document(id="d", text="The broom stands in the corner."),
        pb.Document(id="a", text="Again."),
    )
    assert [(outcome.id, outcome.state, outcome.code) for outcome in done.outcomes] == [
        ("a", WRITTEN, ""),
        ("blank", FAILED, "empty_document"),
        ("b", FAILED, "unreadable_document"),
        ("c", FAILED, "unknown_media_type"),
        ("d", WRITTEN, ""),
        ("a", FAILED, "duplicate_document_id"),
    ]
    assert "blank" in done.outcomes[1].message
    assert (done.summary.written, done.summary.failed, done.summary.chunks) == (2, 4, 2)
    assert set(await client.found("kettle broom", top_k=10)) == {"a", "d"}


async def test_a_document_over_the_quota_stops_no_other_in_its_batch(client: Client) -> None:
    quota = pb.Quota(bytes=20_000)
    await client.stub.ConfigureCollection(pb.ConfigureCollectionRequest(collection="notes", quota=quota))
    documents = [pb.Document(id=f"n{n}", text=f"Note {n}.") for n in range(4)]
    documents.insert(2, pb.Document(id="big", text="Much too long for it. " * 1_000))
    done = await ingest(client, *documents)
    assert [(one.id, one.state, one.code) for one in done.outcomes] == [
        ("n0", WRITTEN, ""),
        ("n1", WRITTEN, ""),
        ("big", FAILED, "quota_exceeded"),
        ("n2", WRITTEN, ""),
        ("n3", WRITTEN, ""),
    ]
    assert (await client.collection()).documents == 4


async def test_a_client_that_waits_for_each_outcome_receives_it(client: Client) -> None:
    call = client.stub.Ingest()
    await call.write(pb.IngestRequest(begin=pb.IngestBegin(collection="notes")))
    for number in range(3):
        await call.write(pb.IngestRequest(document=pb.Document(id=f"n{number}", text=f"Note {number}.")))
        assert (await call.read()).outcome.id == f"n{number}"
    await call.write(pb.IngestRequest(end=pb.IngestEnd()))
    assert (await call.read()).summary.written == 3


async def test_outcomes_of_a_batch_come_together_and_in_order(client: Client) -> None:
    documents = [pb.Document(id=f"n{n}", text=f"Note {n}.") for n in range(200)]
    documents[3] = pb.Document(id="n3", content=b"\x89PNG", media_type="image/png")
    requests = [
        pb.IngestRequest(begin=pb.IngestBegin(collection="notes", together=True)),
        *(pb.IngestRequest(documents=pb.Documents(documents=documents[n : n + 50])) for n in range(0, 200, 50)),
        pb.IngestRequest(end=pb.IngestEnd()),
    ]
    events = [event async for event in client.stub.Ingest(iter(requests))]
    assert all(event.HasField("outcomes") for event in events[:-1])
    assert len(events) <= 10
    outcomes = [outcome for event in events[:-1] for outcome in event.outcomes.outcomes]
    assert [outcome.id for outcome in outcomes] == [f"n{n}" for n in range(200)]
    assert [outcome.id for outcome in outcomes if outcome.state == FAILED] == ["n3"]
    assert (events[-1].summary.written, events[-1].summary.failed) == (199, 1)


async def test_unchanged_documents_are_neither_embedded_nor_written(counting: Counting) -> None:
    client, model = counting
    documents = [pb.Document(id=f"n{n}", title="Note", text=f"Note {n}.", metadata={"n": str(n)}) for n in range(5)]
    first = await ingest(client, *documents)
    embedded, version = len(model.texts), (await client.collection()).version
    again = await ingest(client, *documents)
    assert (first.summary.written, again.summary.unchanged, again.summary.written) == (5, 5, 0)
    assert len(model.texts) == embedded == 5
    assert (await client.collection()).version == again.summary.version == version
    upserted = await client.stub.Upsert(pb.UpsertRequest(collection="notes", documents=documents))
    assert (upserted.documents, upserted.unchanged) == (5, 0)  # an upsert has no source, which was recorded
    assert len(model.texts) == embedded


async def test_only_changed_chunks_are_embedded_and_old_ones_are_removed(counting: Counting) -> None:
    client, model = counting
    await ingest(client, pb.Document(id="house", text=HOUSE))
    before = (await client.collection()).chunks
    model.texts.clear()
    changed = HOUSE.replace(ATTIC, "The trunk was sold to a man from Leith. " * 12)
    done = await ingest(client, pb.Document(id="house", text=changed))
    assert 0 < len(model.texts) == done.summary.chunks < before
    assert all("Leith" in text for text in model.texts)
    passages = (await client.search("trunk attic maps", top_k=100)).passages
    assert len(passages) == (await client.collection()).chunks
    assert not any("old maps" in passage.text for passage in passages)
    for passage in passages:  # unchanged documents have moved
        assert changed[passage.start : passage.end] == passage.text


async def test_changed_metadata_takes_effect_without_embedding(counting: Counting) -> None:
    client, model = counting
    await client.upsert(pb.Document(id="a", text="A ladder.", metadata={"room": "shed"}))
    model.texts.clear()
    await client.upsert(pb.Document(id="a", text="A ladder.", metadata={"room": "attic"}))
    assert model.texts == []
    assert await client.found("ladder", filter={"room": "attic"}) == ["a"]
    assert await client.found("ladder", filter={"room": "shed"}) == []


async def test_only_documents_missing_from_the_source_are_removed(client: Client) -> None:
    await client.upsert(pb.Document(id="single", text="Upserted by itself."))
    await ingest(client, pb.Document(id="other", text="Of another folder."), source="elsewhere")
    await ingest(client, *(pb.Document(id=f"n{n}", text=f"Note {n}.") for n in range(4)))
    kept = [pb.Document(id="n0", text="Note 0."), pb.Document(id="n1", text=" ")]  # n1 can no longer be read
    assert (await ingest(client, *kept)).summary.removed == 0
    done = await ingest(client, *kept, remove_missing=True)
    assert done.summary.removed == 2
    assert set(await client.found("note folder itself", top_k=100)) == {"single", "other", "n0", "n1"}


async def test_an_interrupted_stream_removes_nothing_and_keeps_acknowledged_documents(
    client: Client, refusal: Refusal
) -> None:
    await ingest(client, pb.Document(id="old", text="An old note."))
    call = client.stub.Ingest()
    await call.write(pb.IngestRequest(begin=pb.IngestBegin(collection="notes", source="folder")))
    await call.write(pb.IngestRequest(document=pb.Document(id="new", text="A new note.")))
    assert (await call.read()).outcome.state == WRITTEN
    call.cancel()
    assert set(await client.found("note", top_k=10)) == {"old", "new"}
    again = await ingest(
        client, pb.Document(id="new", text="A new note."), pb.Document(id="b", text="B."), remove_missing=True
    )
    assert again.states == {"new": UNCHANGED, "b": WRITTEN}
    assert again.summary.removed == 1


async def test_a_document_that_moved_to_another_source_is_not_removed_by_the_first(client: Client) -> None:
    note = pb.Document(id="a", text="A note.")
    await ingest(client, note, source="one")
    assert (await ingest(client, note, source="two")).states == {"a": WRITTEN}
    assert (await ingest(client, source="one", remove_missing=True)).summary.removed == 0
    assert await client.found("note") == ["a"]


async def test_each_line_of_a_json_lines_file_is_a_document(client: Client) -> None:
    lines = (
        b'{"id": "x", "title": "Fox", "text": "The fox sleeps.", "metadata": {"year": 1999}}\n'
        b"\n"
        b"not json\n"
        b'{"text": "No name."}\n'
        b'{"id": "y", "body": "Wrong key."}\n'
    )
    file = pb.Document(id="animals", content=lines, media_type="application/jsonl", metadata={"file": "animals.jsonl"})
    done = await ingest(client, file)
    assert {(one.id, one.state) for one in done.outcomes} == {
        ("x", WRITTEN),
        ("animals:3", FAILED),
        ("animals:4", WRITTEN),
        ("animals:5", FAILED),
    }
    assert any("'body'" in outcome.message for outcome in done.outcomes)
    passage = (await client.search("fox")).passages[0]
    assert (passage.document_id, passage.title, dict(passage.metadata)) == (
        "x",
        "Fox",
        {"file": "animals.jsonl", "year": "1999"},
    )


async def test_an_unreadable_line_prevents_removals(client: Client) -> None:
    def file(*lines: str) -> pb.Document:
        return pb.Document(id="f", content="\n".join(lines).encode(), media_type="application/jsonl")

    await ingest(client, file('{"id": "x", "text": "The fox."}', '{"id": "y", "text": "The owl."}'))
    broken = await ingest(client, file('{"id": "x", "text": "The fox."}', '{"id": "y", "te'), remove_missing=True)
    assert broken.summary.removed == 0
    whole = await ingest(client, file('{"id": "x", "text": "The fox."}'), remove_missing=True)
    assert whole.summary.removed == 1


async def test_a_json_lines_file_is_not_read_beyond_the_maximum_of_bad_lines(start: Start) -> None:
    good = b'{"id": "x", "text": "The fox."}\n'
    bad = b"{\n" * 1_000_000
    async with start(max_bad_lines=3) as client:
        await client.create()
        await ingest(client, pb.Document(id="f", content=good, media_type="application/jsonl"))
        started = time.process_time()
        done = await ingest(
            client,
            pb.Document(id="f", content=good + bad + good, media_type="application/jsonl"),
            pb.Document(id="y", text="The owl."),
            remove_missing=True,
        )
        assert time.process_time() - started < 3.0
        assert [(one.id, one.code) for one in done.outcomes] == [
            ("x", ""),
            ("f:2", "unreadable_document"),
            ("f:3", "unreadable_document"),
            ("f:4", "unreadable_document"),
            ("f", "too_many_bad_lines"),
            ("y", ""),
        ]
        assert "stopped at line 5" in done.outcomes[4].message
        assert done.summary.removed == 0


@pytest.mark.parametrize("key", ["id", "title", "text", "metadata"])
async def test_a_line_with_a_lone_surrogate_is_refused_and_stops_no_other(client: Client, key: str) -> None:
    half: dict[str, object] = {"id": "half", "title": "Half", "text": "Half of a pair."}
    half[key] = {"half": "\ud83d"} if key == "metadata" else "\ud83d"
    lines = [{"id": "x", "text": "The fox."}, half, {"id": "y", "text": "The owl."}]
    content = "\n".join(map(json.dumps, lines)).encode()
    done = await ingest(client, pb.Document(id="f", content=content, media_type="application/jsonl"))
    assert [(one.id, one.state, one.code) for one in done.outcomes] == [
        ("x", WRITTEN, ""),
        ("f:2", FAILED, "unreadable_document"),
        ("y", WRITTEN, ""),
    ]


async def test_a_json_lines_file_that_is_too_large_prevents_removals(client: Client) -> None:
    def file(content: bytes) -> pb.Document:
        return pb.Document(id="f", content=content, media_type="application/jsonl")

    lines = b'{"id": "x", "text": "The fox."}\n{"id": "y", "text": "The owl."}\n'
    await ingest(client, file(lines))
    large = await ingest(client, file(lines + b" " * MAX_CONTENT_BYTES), remove_missing=True)
    assert [(one.id, one.state, one.code) for one in large.outcomes] == [("f", FAILED, "document_too_large")]
    assert large.summary.removed == 0
    assert (await client.collection()).documents == 2


async def test_a_stream_whose_collection_is_deleted_receives_the_error_while_it_sends(
    client: Client, refusal: Refusal
) -> None:
    documents = [pb.Document(id=f"n{n}", text=f"Note {n}.", title="x" * 5_000) for n in range(2_000)]
    reading = asyncio.ensure_future(refusal(_all(client.stub.Ingest(steps(documents)))))
    while not (await client.collection()).documents:
        assert not reading.done()
    await client.stub.DeleteCollection(pb.DeleteCollectionRequest(name="notes"))
    assert (await reading).code in ("unknown_collection", "collection_closed")


class HeldModel(CountingModel):
    def __init__(self, model: MiniLM) -> None:
        super().__init__(model)
        self.go_on = threading.Event()

    def embed(self, texts: Sequence[str]) -> Vectors:
        assert self.go_on.wait(30)
        return super().embed(texts)


async def test_backpressure_slows_a_client_that_sends_faster_than_documents_are_written(
    start: Start, minilm: MiniLM
) -> None:
    model, sent = HeldModel(minilm), 0
    body = "x" * 100_000  # large compared with the connection's own buffers

    async def documents() -> AsyncIterator[pb.IngestRequest]:
        nonlocal sent
        yield pb.IngestRequest(begin=pb.IngestBegin(collection="notes"))
        for number in range(3 * MAX_DOCUMENTS_IN_FLIGHT):
            yield pb.IngestRequest(document=pb.Document(id=str(number), text=f"{number}", title=body))
            sent += 1
        yield pb.IngestRequest(end=pb.IngestEnd())

    async with start(model) as client:
        await client.create()
        reading = asyncio.create_task(_all(client.stub.Ingest(documents())))
        held = -1
        async with asyncio.timeout(30):
            while held != sent or sent < MAX_DOCUMENTS_IN_FLIGHT:
                held = sent
                await asyncio.wait([reading], timeout=0.3)
        assert MAX_DOCUMENTS_IN_FLIGHT <= sent < 2 * MAX_DOCUMENTS_IN_FLIGHT
        model.go_on.set()
        events = await reading
    assert events[-1].summary.written == 3 * MAX_DOCUMENTS_IN_FLIGHT


async def _all(call: AsyncIterator[pb.IngestResponse]) -> list[pb.IngestResponse]:
    return [event async for event in call]


@pytest.mark.parametrize(
    ("requests", "code"),
    [
        pytest.param([], "steps_out_of_order", id="nothing"),
        pytest.param([pb.IngestRequest(document=pb.Document(id="a"))], "steps_out_of_order", id="no beginning"),
        pytest.param([*steps([])[:1], *steps([])[:1]], "steps_out_of_order", id="two beginnings"),
        pytest.param(steps([], collection="nowhere"), "unknown_collection", id="no such collection"),
        pytest.param(steps([], source="x" * 257), "invalid_source", id="a long source"),
        pytest.param(steps([], source="", remove_missing=True), "source_needed", id="everything would be removed"),
    ],
)
async def test_a_stream_with_messages_out_of_order_is_refused(
    client: Client, refusal: Refusal, requests: list[pb.IngestRequest], code: str
) -> None:
    await client.upsert(pb.Document(id="a", text="Stays."))
    error = await refusal(_all(client.stub.Ingest(requests)))
    assert error.code == code
    assert (await client.collection()).documents == 1


async def test_a_document_with_its_vector_is_one_chunk_and_is_not_embedded(counting: Counting, minilm: MiniLM) -> None:
    client, model = counting
    values = (3.0 * minilm.embed(["rain tomorrow"])[0]).tolist()
    vector = pb.Vector(fingerprint=minilm.fingerprint, values=values)
    written = await client.upsert(pb.Document(id="a", text="The kettle.", vector=vector))
    again = await client.upsert(pb.Document(id="a", text="The kettle.", vector=vector))
    assert (written.chunks, again.unchanged, model.texts) == (1, 1, [])
    passage = (await client.search("x", vector=vector, dense_weight=1.0)).passages[0]
    assert passage.dense_score == pytest.approx(1.0, abs=1e-5)
    other = pb.Vector(fingerprint=minilm.fingerprint, values=minilm.embed(["kettle"])[0].tolist())
    changed = await client.upsert(pb.Document(id="a", text="The kettle.", vector=other))
    assert (changed.chunks, changed.unchanged) == (1, 0)


@pytest.mark.parametrize(
    ("text", "fingerprint", "values", "status", "code"),
    [
        ("x", "another", [1.0] * 384, grpc.StatusCode.FAILED_PRECONDITION, "fingerprint_mismatch"),
        ("x", "", [1.0] * 3, grpc.StatusCode.INVALID_ARGUMENT, "invalid_vector"),
        ("x" * 2001, "", [1.0] * 384, grpc.StatusCode.INVALID_ARGUMENT, "text_too_long_for_a_vector"),
    ],
)
async def test_a_document_with_an_unusable_vector_is_refused(
    client: Client,
    refusal: Refusal,
    minilm: MiniLM,
    text: str,
    fingerprint: str,
    values: list[float],
    status: grpc.StatusCode,
    code: str,
) -> None:
    vector = pb.Vector(fingerprint=fingerprint or minilm.fingerprint, values=values)
    error = await refusal(client.upsert(pb.Document(id="a", text=text, vector=vector)))
    assert (error.grpc_status, error.code) == (status, code)
