"""Fills a shared store from two processes, kills one in the middle, starts it again, and checks that nothing is lost.

    python -m benchmarks.shared_store --url postgresql://postgres@127.0.0.1:5499/postgres --chunks 1000000 --minutes 13

The database needs the extension (`CREATE EXTENSION vector`). Documents have four chunks of 40 words, which have the
frequencies of Zipf's law, and random vectors of 384 dimensions. If the time ends first, both writers stop. Prints one
JSON object: chunks per second of both writers in each tenth of the run, the counts and checksums against what was
acknowledged, the seconds that a new process needs until its first search, and the median and the 95th percentile of a
search by meaning and words. Drops the collection at the end.
"""

import argparse
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from pointsman_retriever.domain import Chunk, CollectionId, CollectionInfo, Document, EncodedDocument
from pointsman_retriever.shared.changes import to_record, write
from pointsman_retriever.shared.pgvector import PgvectorStore
from pointsman_retriever.shared.stores import CandidateQuery, SharedStoreOptions

DIMENSIONS = 384
CHUNKS = 4  # of a document
WORDS = 40  # of a chunk
BATCH = 64  # documents of one change
SEARCHES = 100
NOTES = CollectionId("default", "benchmark")
SPAWN = multiprocessing.get_context("spawn")


def make_documents(writer: int, batch: int) -> list[EncodedDocument]:
    random = np.random.default_rng([writer, batch])
    vectors = random.normal(size=(BATCH, CHUNKS, DIMENSIONS)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    words = np.minimum(random.zipf(1.3, (BATCH, CHUNKS, WORDS)), 200_000)
    made = []
    for number in range(BATCH):
        texts = [" ".join(f"w{word}" for word in chunk) for chunk in words[number]]
        starts = np.cumsum([0, *(len(text) + 1 for text in texts)]).tolist()
        document = Document(f"{writer}-{batch}-{number}", "", " ".join(texts), {"writer": str(writer)})
        chunks = tuple(Chunk(text, at, at + len(text), "") for text, at in zip(texts, starts, strict=False))
        made.append(EncodedDocument(document, chunks, vectors[number], "given"))
    return made


def fill(options: SharedStoreOptions, writer: int, batches: int, first: int, deadline: float, done: Any) -> None:
    """Writes batches from `first` on until the deadline; `done` is the number of batches that are acknowledged."""
    store = PgvectorStore(options)
    for batch in range(first, batches):
        if time.time() > deadline:
            break
        write(store, NOTES, make_documents(writer, batch))
        done.value = max(done.value, batch + 1)
    store.close()


def run(options: SharedStoreOptions, chunks: int, minutes: float) -> dict[str, object]:
    store = PgvectorStore(options)
    store.drop(NOTES)
    store.create(CollectionInfo(NOTES.name, "random", DIMENSIONS))
    batches, started = chunks // (2 * BATCH * CHUNKS), time.perf_counter()
    deadline = time.time() + 60 * minutes
    done = [SPAWN.Value("l", 0) for _ in range(2)]

    def start(writer: int, first: int = 0) -> Any:
        process = SPAWN.Process(target=fill, args=(options, writer, batches, first, deadline, done[writer]))
        process.start()
        return process

    def sample() -> int:
        samples.append((time.perf_counter() - started, _info(store).chunks))
        return samples[-1][1]

    samples: list[tuple[float, int]] = []
    writers = [start(0), start(1)]
    half = 30 * minutes
    while sample() < chunks // 2 and time.perf_counter() - started < half:
        time.sleep(1)
    os.kill(writers[1].pid, signal.SIGKILL)
    writers[1].join()
    at_kill = done[1].value
    writers[1] = start(1, max(0, at_kill - 2))  # it sends its last batches again, as a client does
    while any(process.is_alive() for process in writers):
        sample()
        time.sleep(1)
    seconds = time.perf_counter() - started
    problems, info = _check(store, [one.value for one in done]), _info(store)
    store.close()
    opened = time.perf_counter()
    store = PgvectorStore(options)
    _search(store, 0)
    first_answer = time.perf_counter() - opened
    times = np.array([_search(store, number) for number in range(1, SEARCHES + 1)])
    found = {
        "chunks": info.chunks,
        "acknowledged_batches": [one.value for one in done],
        "acknowledged_at_kill": at_kill,
        "problems": problems,
        "seconds": round(seconds),
        "chunks_per_second": _rates(samples),
        "seconds_to_first_answer": round(first_answer, 3),
        "search_ms": [round(1e3 * float(one), 1) for one in np.quantile(times, (0.5, 0.95))],
    }
    store.drop(NOTES)
    store.close()
    return found


def _rates(samples: list[tuple[float, int]]) -> list[int]:
    marks = [samples[min(tenth * len(samples) // 10, len(samples) - 1)] for tenth in range(11)]
    return [round((b[1] - a[1]) / max(b[0] - a[0], 1e-9)) for a, b in pairwise(marks)]


def _check(store: PgvectorStore, acknowledged: Sequence[int]) -> list[str]:
    """Compares the collection with the batches that were acknowledged, and with its own counts."""
    expected = 0
    for writer, batches in enumerate(acknowledged):
        for batch in range(batches):
            for one in make_documents(writer, batch):
                expected ^= to_record(one).checksum
    documents, stored, chunks, after = 0, 0, 0, ""
    with store.reading(NOTES) as reader:
        info = reader.info
        while records := reader.records(after, 10_000):
            after = records[-1][0]
            documents += len(records)
            chunks += sum(record.chunks for _, record in records)
            for _, record in records:
                stored ^= record.checksum
    sent = BATCH * sum(acknowledged)
    compared = {
        "documents": (documents, info.documents, sent),
        "chunks": (chunks, info.chunks, CHUNKS * sent),
        "checksum": (stored, info.checksum, expected),
    }
    return [f"{what}: {values}" for what, values in compared.items() if len({*values}) > 1]


def _info(store: PgvectorStore) -> CollectionInfo:
    return next(info for info in store.collections() if info.id == NOTES)


def _search(store: PgvectorStore, number: int) -> float:
    asked = make_documents(2, number)[0]
    terms = dict.fromkeys(asked.chunks[0].text.split()[:8], 1)
    started = time.perf_counter()
    with store.reading(NOTES) as reader:
        found = reader.candidates(CandidateQuery(asked.vectors[0], terms, True, None, 100))
    assert len(found.ids)
    return time.perf_counter() - started


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--chunks", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=13.0)
    given = parser.parse_args(arguments)
    options = SharedStoreOptions(given.url, prefix="pointsman_benchmark", timeout_seconds=600)
    print(json.dumps(run(options, given.chunks, given.minutes)))


if __name__ == "__main__":
    main()
