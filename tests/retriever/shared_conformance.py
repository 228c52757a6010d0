"""The tests that every store shared by several retrievers must pass."""

import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pointsman_retriever.domain import (
    SHARED,
    Chunk,
    CollectionId,
    CollectionInfo,
    Document,
    EncodedDocument,
    Explanation,
    Quota,
    RankedChunk,
)
from pointsman_retriever.filters import And, Eq, Exists, Filter, In, Not, NumberRange, Or, TextRange
from pointsman_retriever.shared.changes import to_record, write
from pointsman_retriever.shared.stores import CandidateQuery, SharedReader, SharedStore, SharedStoreOptions
from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted, Unavailable

DIMENSIONS = 8
NOTES = CollectionId("default", "notes")
INFO = CollectionInfo("notes", "model", DIMENSIONS, store=SHARED)
BATCHES, BATCH = 12, 25
SPAWN = multiprocessing.get_context("spawn")


def encoded(document_id: str, text: str = "A bicycle travels free", seed: int = 0, chunks: int = 2) -> EncodedDocument:
    random = np.random.default_rng([seed, *document_id.encode()])
    vectors = random.normal(size=(chunks, DIMENSIONS)).astype(np.float32)
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    document = Document(document_id, "Fares", text, {"topic": "fares"})
    return EncodedDocument(document, tuple(Chunk(text, n, n + 1, "Fares") for n in range(chunks)), unit, "given")


QUERY = CandidateQuery(np.eye(DIMENSIONS, dtype=np.float32)[0], {"bicycl": 1}, True, None, 9)


def with_metadata(document: EncodedDocument, metadata: dict[str, str]) -> EncodedDocument:
    return replace(document, document=replace(document.document, metadata=metadata))


def ids_of(reader: SharedReader, query: CandidateQuery) -> list[str]:
    """Returns the ids of the documents of a query's candidates."""
    chunks = reader.candidates(query).ids.tolist()
    ranked = [RankedChunk(one, 1.0, 1.0, 0.0, Explanation(1, 0, 1.0, 1.0, 0.0, 0.0)) for one in chunks]
    return list(dict.fromkeys(passage.document_id for passage in reader.passages(ranked, 0)))


def write_until_killed(
    implementation: type[Any], options: SharedStoreOptions, name: str, first: int, kill_in: int | None
) -> None:
    """Writes documents in batches; is killed within the change of the batch `kill_in`, just before its commit."""
    store: SharedStore = implementation(options)
    for batch in range(first, BATCHES):
        documents = [encoded(f"{name}-{batch}-{n}") for n in range(BATCH)]
        if batch == kill_in:
            with store.changing(NOTES, documents) as change:
                change.commit([], documents, replace(change.info, documents=change.info.documents + BATCH))
                sys.stdout.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        write(store, NOTES, documents)
    store.close()


class SharedConformance:
    """Tests for one store. A subclass names the store's class, and returns the options of an empty store."""

    implementation: type[Any]

    @pytest.fixture
    def options(self) -> SharedStoreOptions:
        raise NotImplementedError

    @pytest.fixture
    def store(self, options: SharedStoreOptions) -> Iterator[SharedStore]:
        opened: SharedStore = self.implementation(options)
        assert opened.create(INFO)
        yield opened
        opened.close()

    def stored(self, store: SharedStore, ids: Sequence[str]) -> set[str]:
        with store.changing(NOTES) as change:
            return set(change.find(ids))

    def test_what_one_retriever_writes_another_finds(self, store: SharedStore, options: SharedStoreOptions) -> None:
        other: SharedStore = self.implementation(options)
        documents = [encoded("bicycles.md"), encoded("dogs.md", "Dogs need a ticket, and a muzzle")]
        after = write(store, NOTES, documents)

        assert (after.documents, after.chunks, after.version) == (2, 4, 1)
        assert list(other.collections()) == [after]
        with other.reading(NOTES) as reader:
            found = reader.candidates(replace(QUERY, vector=documents[0].vectors[1], terms={"muzzl": 1, "cat": 1}))
            best = int((found.vectors @ documents[0].vectors[1]).argmax())
            ranked = RankedChunk(int(found.ids[best]), 1.0, 1.0, 0.0, Explanation(1, 0, 1.0, 1.0, 0.0, 0.0))
            (passage,) = reader.passages([ranked], 1)
        assert (passage.document_id, passage.text, passage.heading) == (
            "bicycles.md",
            "A bicycle travels free",
            "Fares",
        )
        assert (passage.metadata, [one.start for one in passage.before]) == ({"topic": "fares"}, [0])
        assert found.vectors[best] == pytest.approx(documents[0].vectors[1])
        assert found.frequencies.tolist() == [2, 0]
        assert found.counts.sum(axis=0).tolist() == [2, 0]
        other.close()

    def test_terms_find_and_count_what_is_far_away_in_meaning(self, store: SharedStore) -> None:
        near = [encoded(f"{number}.md", "A bicycle travels free", chunks=1) for number in range(9)]
        odd = encoded("odd.md", "It's a ladder\\, ladder, 'ladder'", chunks=1)
        write(store, NOTES, [*near, odd])
        with store.reading(NOTES) as reader:
            found = reader.candidates(replace(QUERY, vector=None, terms={"ladder": 1, "s": 1, "'": 1}))
            assert (found.counts.tolist(), found.lengths.tolist()) == ([[3, 1, 0]], [7])
            assert found.words == 9 * 5 + 7
            none = reader.candidates(replace(QUERY, vector=None, terms={"ladder": 1}, by_words=False))
            assert len(none.ids) == 0

    def test_texts_with_a_meaning_in_the_store_are_texts_like_others(self, store: SharedStore) -> None:
        names = ["null", "NULL", 'a "quoted", {id}', "back\\slash", "%s", "'; DROP"]
        document = with_metadata(encoded("null", "A null is null"), {"null": "null"})
        assert write(store, NOTES, [document, *map(encoded, names[1:])]).documents == len(names)
        assert write(store, NOTES, [document]).version == 1
        assert self.stored(store, names) == set(names)
        with store.reading(NOTES) as reader:
            query = replace(QUERY, vector=None, terms={"null": 1}, filter=In("null", ("null", "x")))
            assert ids_of(reader, query) == ["null"]
        assert write(store, NOTES, [], names).chunks == 0

    def test_a_document_with_a_nul_character_is_refused_by_its_id(self, store: SharedStore) -> None:
        for bad in (encoded("bad.md", "a \0 b"), encoded("b\0d.md"), replace(encoded("bad.md"), source="\0")):
            with pytest.raises(InvalidArgument, match=re.escape(f"document {bad.document.id!r} has a NUL")):
                write(store, NOTES, [encoded("good.md"), bad])
        assert write(store, NOTES, [encoded("good.md")], ["b\0d.md"]).documents == 1
        with store.reading(NOTES) as reader:
            assert (reader.document("b\0d.md"), reader.ids_of_source("\0")) == (None, [])

    def test_chunks_are_found_by_the_best_scores_of_their_words(self, store: SharedStore) -> None:
        often = encoded("often.md", "ladder ladder ladder", chunks=1)
        long = encoded("long.md", "ladder " + "and a very long text about something else " * 9, chunks=1)
        write(store, NOTES, [long, often, encoded("rare.md", "ladder muzzle", chunks=1)])
        with store.reading(NOTES) as reader:
            query = replace(QUERY, vector=None, terms={"ladder": 1, "muzzl": 1}, count=1)
            assert ids_of(reader, query) == ["rare.md"]
            assert ids_of(reader, replace(query, terms={"ladder": 1})) == ["often.md"]

    @pytest.mark.parametrize(
        ("condition", "expected"),
        [
            (Eq("year", "2024"), {"a"}),
            (In("year", ("2024", "1e3")), {"a", "b"}),
            (Exists("lang"), {"b"}),
            (Not(Exists("lang")), {"a", "c"}),
            (NumberRange("year", gte=1000.0, lt=2024.0), {"b"}),
            (NumberRange("year", gt=float("-inf")), {"a", "b"}),
            (TextRange("year", gte="2", lt="3"), {"a"}),
            (Not(TextRange("lang", gte="a")), {"a", "c"}),
            (And((Exists("year"), Or((Eq("lang", "de"), Eq("year", "nan"))))), {"b", "c"}),
            (Eq("year", "' OR true --"), set()),
        ],
    )
    def test_a_filter_is_applied_before_the_nearest_are_selected(
        self, store: SharedStore, condition: Filter, expected: set[str]
    ) -> None:
        rows = {"a": {"year": "2024"}, "b": {"year": "1e3", "lang": "de"}, "c": {"year": "nan"}}
        many = [encoded(f"x{number}", chunks=1) for number in range(20)]
        write(store, NOTES, [*many, *(with_metadata(encoded(name), entries) for name, entries in rows.items())])
        both = And((Exists("year") if expected != {"a", "c"} else Not(Exists("topic")), condition))
        with store.reading(NOTES) as reader:
            by_meaning = replace(QUERY, filter=both, count=6, vector=many[0].vectors[0], terms={})
            assert set(ids_of(reader, by_meaning)) == expected
            by_words = replace(QUERY, filter=both, count=6, vector=None, terms={"bicycl": 1})
            assert set(ids_of(reader, by_words)) == expected

    def test_documents_are_read_back_as_they_were_written(self, store: SharedStore) -> None:
        written = [encoded(name, f"Text of {name}") for name in ("b", "a", "z", "ä")]
        write(store, NOTES, written)
        with store.reading(NOTES) as reader:
            read = [*reader.documents("", 2), *reader.documents("b", 9)]
            assert [one.document.id for one in read] == ["a", "b", "z", "ä"]
            assert [to_record(one) for one in read] == [record for _, record in reader.records("", 9)]
            assert reader.document("a") is not None
            assert reader.document("unknown") is None
            assert dict(reader.document_digests()).keys() == {"a", "b", "z", "ä"}
            assert reader.sample_vectors(3).shape == (3, DIMENSIONS)
        assert [to_record(one) for one in sorted(written, key=lambda one: one.document.id)] == [*map(to_record, read)]

    def test_a_reader_sees_one_version(self, store: SharedStore) -> None:
        write(store, NOTES, [encoded("a.md")])
        with store.reading(NOTES) as reader:
            write(store, NOTES, [encoded("b.md")], ["a.md"])
            assert (reader.info.version, set(reader.find(["a.md", "b.md"]))) == (1, {"a.md"})

    def test_a_document_that_another_retriever_was_faster_with_is_not_written_twice(self, store: SharedStore) -> None:
        document = encoded("a.md")
        with store.changing(NOTES, [document]) as change:
            assert change.find(["a.md"]) == {}  # as another retriever had written it: nothing is committed
        after = write(store, NOTES, [document])
        with store.reading(NOTES) as reader:
            assert len(reader.candidates(replace(QUERY, vector=document.vectors[0])).ids) == after.chunks == 2

    def test_a_collection_gets_another_name_that_is_free(self, store: SharedStore) -> None:
        write(store, NOTES, [encoded("old.md")])
        unfinished = CollectionId("default", "notes.unfinished")
        store.create(replace(INFO, name=unfinished.name))
        write(store, unfinished, [encoded("new.md")])
        assert [one.name for one in store.collections()] == ["notes"]
        assert not store.rename(unfinished, NOTES, above_version=9)
        assert store.drop(NOTES)
        assert store.rename(unfinished, NOTES, above_version=9)
        assert self.stored(store, ["old.md", "new.md"]) == {"new.md"}
        assert store.rename(NOTES, CollectionId("acme", "notes"), above_version=9)
        assert [(one.tenant, one.version, one.documents) for one in store.collections()] == [("acme", 11, 1)]

    def test_quota_and_search_settings_are_stored(self, store: SharedStore) -> None:
        store.configure(NOTES, quota=Quota(chunks=7))
        configured = store.configure(NOTES, search_settings='{"dense_weight": 0.5}')
        assert (configured.quota, configured.search_settings) == (Quota(chunks=7), '{"dense_weight": 0.5}')
        assert list(store.collections()) == [configured]

    def test_an_equal_document_is_not_written_again_and_a_changed_one_replaces_it(self, store: SharedStore) -> None:
        first = write(store, NOTES, [encoded("a.md")])
        assert write(store, NOTES, [encoded("a.md")]) == first
        changed = encoded("a.md", "Dogs need a ticket", chunks=1)
        after = write(store, NOTES, [changed])
        assert (after.documents, after.chunks, after.checksum) == (1, 1, to_record(changed).checksum)
        assert write(store, NOTES, [encoded("a.md", "Dogs need a ticket", seed=1, chunks=1)]).version == 3
        with store.reading(NOTES) as reader:
            assert ids_of(reader, replace(QUERY, vector=changed.vectors[0], terms={"bicycl": 1})) == ["a.md"]
            assert reader.candidates(replace(QUERY, terms={"bicycl": 1})).frequencies.tolist() == [0]

    def test_a_removed_document_is_not_found_and_the_counts_return_to_zero(self, store: SharedStore) -> None:
        write(store, NOTES, [encoded("a.md")])
        after = write(store, NOTES, [], ["a.md", "unknown.md"])
        assert (after.documents, after.chunks, after.bytes, after.checksum) == (0, 0, 0, 0)
        with store.reading(NOTES) as reader:
            found = reader.candidates(QUERY)
            assert (len(found.ids), found.words, found.frequencies.tolist()) == (0, 0, [0])

    def test_a_change_above_the_quota_changes_nothing(self, store: SharedStore) -> None:
        assert store.drop(NOTES)
        store.create(replace(INFO, quota=Quota(documents=1)))
        write(store, NOTES, [encoded("a.md")])
        with pytest.raises(ResourceExhausted, match="would have 2 documents, and its quota is 1"):
            write(store, NOTES, [encoded("b.md")])
        assert self.stored(store, ["a.md", "b.md"]) == {"a.md"}

    def test_a_change_that_ends_without_a_commit_changes_nothing(self, store: SharedStore) -> None:
        def fail() -> None:
            with store.changing(NOTES) as change:
                change.commit([], [encoded("a.md")], change.info)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert self.stored(store, ["a.md"]) == set()

    def test_tenants_have_collections_of_the_same_name(self, store: SharedStore) -> None:
        assert store.create(replace(INFO, tenant="acme"))
        write(store, NOTES, [encoded("a.md")])
        with store.reading(CollectionId("acme", "notes")) as reader:
            assert len(reader.candidates(QUERY).ids) == 0

    def test_a_collection_is_created_once_and_dropped_once(
        self, store: SharedStore, options: SharedStoreOptions
    ) -> None:
        other: SharedStore = self.implementation(options)
        assert not other.create(INFO)
        assert (other.drop(NOTES), store.drop(NOTES)) == (True, False)
        with pytest.raises(NotFound, match="no collection 'notes'"):
            write(store, NOTES, [encoded("a.md")])
        other.close()

    def test_a_killed_writer_loses_and_doubles_nothing(self, store: SharedStore, options: SharedStoreOptions) -> None:
        writers = {
            "a": SPAWN.Process(target=write_until_killed, args=(self.implementation, options, "a", 0, None)),
            "b": SPAWN.Process(target=write_until_killed, args=(self.implementation, options, "b", 0, 5)),
        }
        for process in writers.values():
            process.start()
        for process in writers.values():
            process.join(60)
        assert [process.exitcode for process in writers.values()] == [0, -signal.SIGKILL]
        (info,) = store.collections()
        assert (info.documents, info.version) == ((BATCHES + 5) * BATCH, BATCHES + 5)

        again = SPAWN.Process(target=write_until_killed, args=(self.implementation, options, "b", 0, None))
        again.start()
        again.join(60)

        every = [f"{name}-{batch}-{n}" for name in "ab" for batch in range(BATCHES) for n in range(BATCH)]
        (info,) = store.collections()
        checksum = 0
        for one in every:
            checksum ^= to_record(encoded(one)).checksum
        assert self.stored(store, every) == set(every)
        assert (info.documents, info.chunks, info.checksum) == (len(every), 2 * len(every), checksum)

    def test_another_installation_is_refused_and_destroys_nothing(
        self, store: SharedStore, options: SharedStoreOptions
    ) -> None:
        after = write(store, NOTES, [encoded("a.md")])
        with pytest.raises(FailedPrecondition, match="belongs to installation 'default', and this one is 'dev'"):
            self.implementation(replace(options, owner="dev"))
        other: SharedStore = self.implementation(replace(options, owner="dev", prefix="pointsman_dev"))
        assert list(other.collections()) == []
        other.create(INFO)
        assert other.drop(NOTES)
        assert list(store.collections()) == [after]
        other.close()

    def test_a_store_that_is_away_is_an_error_that_a_retry_may_cure(self, options: SharedStoreOptions) -> None:
        with pytest.raises(Unavailable):
            self.implementation(replace(options, url="postgresql://postgres@127.0.0.1:9/postgres", timeout_seconds=1))
