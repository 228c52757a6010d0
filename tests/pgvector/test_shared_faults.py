"""Faults of a shared store and of those who use it: deletions during changes, a server that hangs, foreign schemas."""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from pointsman.v1 import retriever_pb2 as pb
from pointsman_embedding import MiniLM
from pointsman_retriever.collections.shared import SharedCollections
from pointsman_retriever.domain import SHARED, CollectionInfo
from pointsman_retriever.external.pgvector import PgvectorTable
from pointsman_retriever.external.stores import ExternalOptions
from pointsman_retriever.postgres_client import PostgresFailure
from pointsman_retriever.settings import Settings
from pointsman_retriever.shared.changes import write
from pointsman_retriever.shared.fail_fast import FailFastStore
from pointsman_retriever.shared.pgvector import PgvectorStore
from pointsman_retriever.shared.postgres import PostgresConnections
from pointsman_retriever.shared.stores import SharedStoreOptions
from pointsman_servicekit.errors import FailedPrecondition, NotFound, PointsmanError, Unavailable

from tests.pgvector.conftest import Run
from tests.pgvector.relay import Relay
from tests.retriever.client import Refusal, Start
from tests.retriever.external_conformance import FIELDS
from tests.retriever.shared_conformance import INFO, NOTES, encoded

PREFIX = "pointsman_faults"
SECRET = "plugh-xyzzy"
SECONDS = 2.0


@pytest.fixture
def options(url: str, run: Run) -> SharedStoreOptions:
    run(f"DROP SCHEMA IF EXISTS {PREFIX} CASCADE")
    return SharedStoreOptions(url, prefix=PREFIX)


@pytest.fixture
def store(options: SharedStoreOptions) -> Iterator[PgvectorStore]:
    opened = PgvectorStore(options)
    yield opened
    opened.close()


@pytest.fixture
def shared(options: SharedStoreOptions, relay: Relay) -> dict[str, Any]:
    """The settings of a retriever whose connections to the shared store pass through `relay`."""
    return {
        "shared_store": "pgvector",
        "shared_store_url": f"postgresql://postgres@127.0.0.1:{relay.port}/postgres",
        "shared_store_prefix": options.prefix,
        "shared_store_timeout": SECONDS,
    }


def test_a_collection_is_deleted_while_others_write_and_read(store: PgvectorStore) -> None:
    ended, errors = threading.Event(), list[BaseException]()

    def use(name: str) -> None:
        for number in range(10_000):
            if ended.is_set():
                return
            try:
                write(store, NOTES, [encoded(f"{name}-{number}-{one}") for one in range(5)], [f"{name}-{number - 1}-0"])
                with store.reading(NOTES) as reader:
                    reader.records("", 10)
                    reader.documents("", 10)
            except NotFound:
                continue
            except BaseException as error:
                if not isinstance(error, PointsmanError) or error.code != "collection_closed":
                    errors.append(error)

    threads = [threading.Thread(target=use, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    for _ in range(20):
        store.create(INFO)
        time.sleep(0.05)
        assert store.drop(NOTES)
    seconds = time.monotonic() - began
    ended.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert seconds < 20  # each deadlock would take a second


def test_a_list_of_collections_that_was_read_slowly_hides_no_new_collection(options: SharedStoreOptions) -> None:
    is_read, is_created = threading.Event(), threading.Event()

    class SlowStore(PgvectorStore):
        def collections(self) -> Sequence[CollectionInfo]:
            found = super().collections()
            if not is_read.is_set():
                is_read.set()
                is_created.wait()
            return found

    collections = SharedCollections(lambda: SlowStore(options))
    reading = threading.Thread(target=collections.refresh)
    reading.start()
    is_read.wait()
    collections.create(INFO)
    is_created.set()
    reading.join()
    assert list(collections.known) == [NOTES]
    collections.close()


def test_the_tables_of_a_deleted_collection_are_dropped(store: PgvectorStore, options: SharedStoreOptions) -> None:
    store.create(INFO)
    with store.reading(NOTES) as reader:
        reader.records("", 1)
        assert store.drop(NOTES)
        assert store.create(INFO)  # its name is free at once
    assert tables(options) == {"chunks_1", "documents_1", "terms_1", "chunks_2", "documents_2", "terms_2"}
    PgvectorStore(options).close()
    assert tables(options) == {"chunks_2", "documents_2", "terms_2"}


def tables(options: SharedStoreOptions) -> set[str]:
    with closing(PostgresConnections(options)) as connections, connections.transaction() as cursor:
        cursor.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = %s AND strpos(tablename, '_') > 0", (PREFIX,)
        )
        return {row[0] for row in cursor.fetchall()}


def test_no_error_and_no_log_quotes_a_users_text(
    store: PgvectorStore, options: SharedStoreOptions, caplog: pytest.LogCaptureFixture
) -> None:
    statements = {
        "SELECT %s::int": "refused a statement",
        "SELECT %s::tsquery": "refused a statement",
        f"INSERT INTO {PREFIX}.owner VALUES (%s), (NULL)": "refused a statement",
        "SELECT %s FROM nowhere": "nowhere",
    }
    caplog.set_level(logging.DEBUG)
    for statement, says in statements.items():
        with pytest.raises(PointsmanError, match=says) as raised, store._connections.transaction() as cursor:
            cursor.execute(statement, (f"{SECRET} '",))
        assert all(SECRET not in repr(one) for one in causes(raised.value))
    table = PgvectorTable(ExternalOptions(options.url, "docs", "", 5.0, FIELDS))
    with pytest.raises(PostgresFailure, match="SQLSTATE 22") as failed:
        table._run("SELECT %s::int", (SECRET,))
    table.close()
    assert all(SECRET not in repr(one) for one in causes(failed.value))
    assert SECRET not in caplog.text


def causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_no_repr_shows_a_password() -> None:
    url = f"postgresql://user:{SECRET}@db/docs"
    settings = Settings(shared_store_url=url, shared_store_token=SECRET, vector_store_token=SECRET, reranker_key=SECRET)
    shown = [settings, SharedStoreOptions(url, SECRET), ExternalOptions(url, "docs", SECRET, 5.0, FIELDS)]
    assert SECRET not in repr(shown)
    assert SECRET not in str(settings)


@pytest.mark.parametrize(
    ("statements", "remedy"),
    [
        (["CREATE TABLE {0}.collections (id int)"], "set POINTSMAN_RETRIEVER_SHARED_STORE_PREFIX"),
        (["CREATE TABLE {0}.owner (installation int)"], "column installation is integer, and text is expected"),
        (["ALTER SCHEMA {0} OWNER TO postgres"], "GRANT USAGE, CREATE ON SCHEMA .* TO writer"),
        (
            ["GRANT ALL ON SCHEMA {0} TO writer", "CREATE TABLE {0}.owner (installation text)"],
            'table pointsman_faults.owner of the role "postgres"; .* GRANT "postgres" TO writer',
        ),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_with_the_remedy(
    options: SharedStoreOptions, run: Run, statements: list[str], remedy: str
) -> None:
    run("DROP ROLE IF EXISTS writer", "CREATE ROLE writer LOGIN", f"CREATE SCHEMA {PREFIX} AUTHORIZATION writer")
    as_writer = "writer" in remedy
    run(*(statement.format(PREFIX) for statement in statements))
    url = options.url.replace("postgres@", "writer@") if as_writer else options.url
    try:
        with pytest.raises(FailedPrecondition, match=remedy) as refused:
            PgvectorStore(replace(options, url=url))
    finally:
        run(f"DROP SCHEMA {PREFIX} CASCADE", "DROP ROLE writer")
    assert refused.value.code == "store_unusable"


def test_a_database_with_another_encoding_is_refused_with_the_remedy(options: SharedStoreOptions, run: Run) -> None:
    run("DROP DATABASE IF EXISTS latin", "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    url = options.url.removesuffix("/postgres") + "/latin"
    other = PostgresConnections(replace(options, url=url))
    with other.transaction() as cursor:
        cursor.execute("CREATE EXTENSION vector")
    other.close()
    with pytest.raises(FailedPrecondition, match=r"encoding LATIN1, .* ENCODING 'UTF8'"):
        PgvectorStore(replace(options, url=url))


async def test_a_store_that_falls_silent_fails_calls_at_once_and_keeps_others_served(
    start: Start, shared: dict[str, Any], relay: Relay, refusal: Refusal
) -> None:
    note = pb.Document(id="a", text="A dog needs a ticket")
    async with start(**shared) as client:
        await client.create()
        await client.stub.CreateCollection(pb.CreateCollectionRequest(name="local", store="local"))
        await client.upsert(note)
        relay.is_silent = True
        calls = [
            asyncio.ensure_future(refusal(call))
            for number in range(8)
            for call in (
                client.search("dog"),
                client.upsert(pb.Document(id=f"b{number}", text=f"Note {number}")),
                client.search("dog", collection="elsewhere"),
                client.stub.Verify(pb.VerifyRequest(collection="notes")),
            )
        ]
        began = time.monotonic()
        await client.upsert(note, collection="local")
        assert await client.found("dog", collection="local") == ["a"]
        assert time.monotonic() - began < SECONDS
        assert {(one.code, type(one)) for one in await asyncio.gather(*calls)} == {("store_unavailable", Unavailable)}
        assert time.monotonic() - began < 4 * SECONDS
        again = time.monotonic()
        assert (await refusal(client.search("dog"))).code == "store_unavailable"
        assert time.monotonic() - again < 0.5
        relay.is_silent = False
        await until_it_answers(lambda: client.found("dog"))
        assert (await client.upsert(pb.Document(id="c", text="A cat"))).documents == 1


async def test_a_retriever_goes_on_after_the_server_has_restarted(
    start: Start, shared: dict[str, Any], run: Run
) -> None:
    async with start(**shared) as client:
        await client.create()
        await client.upsert(pb.Document(id="a", text="A dog needs a ticket"))
        run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pointsman'")
        await asyncio.sleep(0.2)
        assert await client.found("dog") == ["a"]


async def test_a_database_that_cannot_be_written_is_searched(
    start: Start, shared: dict[str, Any], options: SharedStoreOptions, run: Run, refusal: Refusal, tmp_path: Path
) -> None:
    shared["shared_store_url"] = options.url
    note = pb.Document(id="a", text="A dog needs a ticket")
    restart = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pointsman'"
    async with start(**shared) as client:
        await client.create()
        await client.upsert(note)
        run("ALTER ROLE postgres SET default_transaction_read_only = on", restart)
        try:
            for number in range(3):
                refused = await refusal(client.upsert(pb.Document(id="b", text=f"A cat {number}")))
                assert (refused.code, type(refused)) == ("store_read_only", Unavailable)
                assert await client.found("dog") == ["a"]
            async with start(data=tmp_path / "other", **shared) as other:
                assert await other.found("dog") == ["a"]
        finally:
            run("SET default_transaction_read_only = off", "ALTER ROLE postgres RESET ALL", restart)


def test_a_statement_that_waits_too_long_does_not_make_the_store_unavailable(options: SharedStoreOptions) -> None:
    store = FailFastStore(lambda: PgvectorStore(replace(options, timeout_seconds=0.5)))
    store.create(INFO)
    with store.changing(NOTES):
        with pytest.raises(Unavailable) as raised:
            write(store, NOTES, [encoded("a")])
        assert raised.value.code == "collection_busy"
        assert len(store.collections()) == 1
    store.close()


def test_a_document_of_many_chunks_may_take_longer_than_a_statement_may(options: SharedStoreOptions, run: Run) -> None:
    store = PgvectorStore(replace(options, timeout_seconds=SECONDS))
    store.create(INFO)
    run(
        f"CREATE FUNCTION {PREFIX}.wait() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN PERFORM pg_sleep(0.001); RETURN NEW; END'",
        f"CREATE TRIGGER slow BEFORE INSERT ON {PREFIX}.chunks_1 FOR EACH ROW EXECUTE FUNCTION {PREFIX}.wait()",
    )
    assert write(store, NOTES, [encoded("a.md", chunks=4_000)]).chunks == 4_000
    store.close()


async def until_it_answers(call: Callable[[], Awaitable[object]]) -> None:
    for _ in range(100):
        try:
            await call()
        except grpc.aio.AioRpcError:
            await asyncio.sleep(0.1)
        else:
            return
    raise TimeoutError


async def test_a_collection_that_another_retriever_deleted_is_created_anew(
    start: Start, shared: dict[str, Any], refusal: Refusal, tmp_path: Path
) -> None:
    note = pb.Document(id="a", text="A dog needs a ticket")
    async with start(data=tmp_path / "a", **shared) as first, start(data=tmp_path / "b", **shared) as second:
        await first.create()
        await second.upsert(note)
        await first.stub.DeleteCollection(pb.DeleteCollectionRequest(name="notes"))
        assert (await refusal(second.upsert(note))).code == "unknown_collection"
        await second.create()
        await second.upsert(note)
        assert await first.found("dog") == ["a"]
        await first.stub.DeleteCollection(pb.DeleteCollectionRequest(name="notes"))
        created = await second.stub.CreateCollection(pb.CreateCollectionRequest(name="notes", if_missing=True))
        assert created.documents == 0
        assert (await first.collection()).documents == 0


@pytest.mark.parametrize("dimensions", [7, 384])
async def test_a_collection_that_was_made_anew_with_another_model_refuses_documents(
    start: Start, shared: dict[str, Any], store: PgvectorStore, refusal: Refusal, dimensions: int
) -> None:
    async with start(**shared) as client:
        await client.create()
        store.drop(NOTES)
        store.create(CollectionInfo("notes", "another model", dimensions, store=SHARED))
        refused = await refusal(client.upsert(pb.Document(id="a", text="A dog needs a ticket")))
        assert (refused.code, type(refused)) == ("fingerprint_mismatch", FailedPrecondition)


async def test_a_collection_that_was_made_anew_with_this_model_is_used(
    start: Start, shared: dict[str, Any], store: PgvectorStore, minilm: MiniLM, refusal: Refusal
) -> None:
    store.create(CollectionInfo("notes", "another model", 7, store=SHARED))
    async with start(**shared) as client:
        assert (await refusal(client.search("dog"))).code == "fingerprint_mismatch"
        store.drop(NOTES)
        store.create(CollectionInfo("notes", minilm.fingerprint, minilm.dimensions, store=SHARED))
        await client.upsert(pb.Document(id="a", text="A dog needs a ticket"))
        assert await client.found("dog") == ["a"]
