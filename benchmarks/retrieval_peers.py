"""Measures other vector stores with given vectors. Run by retrieval_quality.py with
.venv-bench/retrieval/bin/python.

    python benchmarks/retrieval_peers.py sets|ann INPUT.npz      # the last line is one JSON object
"""

import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import bm25s
import chromadb
import lancedb
import numpy as np
import Stemmer

AT_ONCE = 5_000  # maximum number of rows per call to Chroma
POOL = 100


def main() -> None:
    what, file = sys.argv[1:]
    options = np.load(file, allow_pickle=False)
    print(json.dumps(rank(options) if what == "sets" else neighbours(options)))


def rank(options: np.lib.npyio.NpzFile) -> dict[str, list[list[int]]]:
    """Returns the rows found for each query by each peer, best first."""
    vectors, queries = options["vectors"], options["queries"]
    texts, asked = options["texts"].tolist(), options["asked"].tolist()
    count = min(POOL, len(vectors))
    found: dict[str, list[list[int]]] = {}
    chroma = in_chroma(vectors)
    found["chromadb"] = [nearest_in_chroma(chroma, query, count) for query in queries]
    with tempfile.TemporaryDirectory() as folder:
        table = lancedb.connect(folder).create_table(
            "chunks",
            [
                {"row": row, "vector": vector, "text": text}
                for row, (vector, text) in enumerate(zip(vectors, texts, strict=True))
            ],
        )
        with warnings.catch_warnings(action="ignore"):  # the replacement of this method is missing in some releases
            table.create_fts_index("text", replace=True)
        found["lancedb hybrid"] = [
            [one["row"] for one in hybrid(table, query, text, count)]
            for query, text in zip(queries, asked, strict=True)
        ]
    stemmer = Stemmer.Stemmer("english")
    words = bm25s.BM25()
    words.index(bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False), show_progress=False)
    asked_words = bm25s.tokenize(asked, stopwords="en", stemmer=stemmer, show_progress=False, return_ids=False)
    found["bm25s"] = [
        words.retrieve([one], k=count, show_progress=False)[0][0].tolist() if one else [] for one in asked_words
    ]
    return found


def hybrid(table: lancedb.table.Table, query: np.ndarray, text: str, count: int) -> list[dict]:
    plain = " ".join(word for word in "".join(c if c.isalnum() else " " for c in text).split())
    search = table.search(query_type="hybrid").vector(query).text(plain)
    return search.limit(count).to_list()


def neighbours(options: np.lib.npyio.NpzFile) -> dict[str, float]:
    """Returns Chroma's recall@10 and median milliseconds, without a filter and with one that matches a tenth of the
    rows.

    The number of candidates is increased until the required recall is reached.
    """
    vectors, queries, wanted = options["vectors"], options["queries"], float(options["recall"])
    groups, group = options["groups"], int(options["group"])
    measured: dict[str, float] = {}
    for candidates in (
        25,
        50,
        100,
        200,
    ):  # changing the value does not affect a loaded index
        chroma = in_chroma(vectors, groups, candidates)
        recall, milliseconds = timed(partial(nearest_in_chroma, chroma, count=10), queries, options["truth"])
        measured = {"recall10": recall, "p50_ms": milliseconds, "ef_search": candidates}
        if recall >= wanted:
            break
    recall, milliseconds = timed(
        partial(nearest_in_chroma, chroma, count=10, where={"group": group}), queries, options["filtered_truth"]
    )
    return {**measured, "filtered_recall10": recall, "filtered_p50_ms": milliseconds}


def timed(search: Callable[[np.ndarray], list[int]], queries: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    seconds, hits = [], 0
    for query, true in zip(queries, truth, strict=True):
        started = time.perf_counter()
        found = search(query)
        seconds.append(time.perf_counter() - started)
        hits += len(set(found) & set(true.tolist()))
    return hits / truth.size, float(np.median(seconds) * 1000)


def in_chroma(vectors: np.ndarray, groups: np.ndarray | None = None, candidates: int = 200) -> chromadb.Collection:
    client = chromadb.EphemeralClient(chromadb.Settings(anonymized_telemetry=False, allow_reset=True))
    client.reset()
    collection = client.create_collection(
        "chunks",
        configuration={"hnsw": {"space": "ip", "ef_search": candidates, "ef_construction": 100, "max_neighbors": 16}},
    )
    for start in range(0, len(vectors), AT_ONCE):
        rows = range(start, min(start + AT_ONCE, len(vectors)))
        collection.add(
            ids=[str(row) for row in rows],
            embeddings=vectors[rows.start : rows.stop],
            metadatas=None if groups is None else [{"group": int(groups[row])} for row in rows],
        )
    return collection


def nearest_in_chroma(
    collection: chromadb.Collection, query: np.ndarray, count: int, where: dict | None = None
) -> list[int]:
    found = collection.query(query_embeddings=[query], n_results=count, where=where, include=["distances"])
    return [int(one) for one in found["ids"][0]]


if __name__ == "__main__":
    assert Path(sys.argv[-1]).exists()
    main()
