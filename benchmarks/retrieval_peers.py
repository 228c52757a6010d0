"""Measures other vector stores with given vectors. Run by retrieval_quality.py with
.venv-bench/retrieval/bin/python.

    python benchmarks/retrieval_peers.py sets|ann INPUT.npz      # the last line is one JSON object
    python benchmarks/retrieval_peers.py lancedb|chromadb|qdrant-edge FOLDER    # for retrieval_million.py
"""

import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import bm25s
import chromadb
import lancedb
import numpy as np
import pyarrow as pa
import qdrant_edge as qdrant
import Stemmer
from retrieval_sets import VectorFile, built_since, time_searches

AT_ONCE = 5_000  # maximum number of rows per call to Chroma
POOL = 100
CACHE = Path(__file__).parents[1] / ".pointsman/cache"
SLICE = 20_000
RECALL = 0.98


def main() -> None:
    what, file = sys.argv[1:]
    if what in MANY:
        print(json.dumps(MANY[what](VectorFile(Path(file)))))
        return
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


# -- many vectors


def _best(found: Iterable[dict[str, float]]) -> dict[str, float]:
    """Returns the first setting with the required recall, or the last one if none has it."""
    for one in found:
        if one["recall10"] >= RECALL:
            break
    return one


def many_in_lancedb(rows: VectorFile) -> dict[str, float]:
    """Measures LanceDB with an IVF index of 8-bit values, like ours; the results are ranked again exactly."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        names = pa.list_(pa.float32(), rows.dimensions)
        batches = (
            pa.table(
                {
                    "row": np.arange(first, first + len(vectors)),
                    "vector": pa.FixedSizeListArray.from_arrays(vectors.ravel(), type=names),
                }
            )
            for first, vectors in rows.slices(SLICE)
        )
        table = lancedb.connect(folder).create_table("rows", next(batches))
        for batch in batches:
            table.add(batch)
        lists = round(4 * rows.count**0.5)
        table.create_index(metric="dot", index_type="IVF_SQ", num_partitions=lists, vector_column_name="vector")
        built = built_since(started)

        def search(query: np.ndarray, probes: int) -> list[int]:
            asked = (
                table.search(query)
                .metric("dot")
                .nprobes(probes)
                .refine_factor(3)
                .select(["row", "_distance"])
                .limit(10)
            )
            return asked.to_arrow()["row"].to_pylist()

        return _best(
            {**built, **time_searches(rows, partial(search, probes=probes)), "probes": probes}
            for probes in (16, 32, 64, 128, 256)
        )


def many_in_chroma(rows: VectorFile) -> dict[str, float]:
    started = time.perf_counter()
    client = chromadb.EphemeralClient(chromadb.Settings(anonymized_telemetry=False))
    hnsw = {"space": "ip", "ef_search": 100, "ef_construction": 100, "max_neighbors": 16}
    collection = client.create_collection("rows", configuration={"hnsw": hnsw})
    for first, vectors in rows.slices(AT_ONCE):
        collection.add(ids=[str(row) for row in range(first, first + len(vectors))], embeddings=vectors)
    built = built_since(started)
    return {**built, **time_searches(rows, partial(nearest_in_chroma, collection, count=10)), "ef_search": 100}


def many_in_qdrant_edge(rows: VectorFile) -> dict[str, float]:
    """Measures Qdrant Edge with an HNSW index of 8-bit values; the results are ranked again with the exact vectors,
    which are in a file.
    """
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        in_ram = qdrant.ScalarQuantizationConfig(qdrant.ScalarType.Int8, quantile=0.99, memory=qdrant.Memory.Pinned)
        vectors = qdrant.EdgeVectorParams(rows.dimensions, qdrant.Distance.Dot, memory=qdrant.Memory.Cold)
        hnsw = qdrant.HnswIndexConfig(16, 100, 10_000, max_indexing_threads=1)
        optimizers = qdrant.EdgeOptimizersConfig(default_segment_number=1)
        config = qdrant.EdgeConfig(
            vectors, hnsw_config=hnsw, quantization_config=in_ram, optimizers=optimizers, max_search_threads=1
        )
        shard = qdrant.EdgeShard.create(str(Path(folder) / "shard"), config)
        for first, part in rows.slices(AT_ONCE):
            points = [qdrant.Point(first + number, vector) for number, vector in enumerate(part.tolist())]
            shard.update(qdrant.UpdateOperation.upsert_points(points))
        shard.optimize()
        built = built_since(started)

        def search(query: np.ndarray, ef: int) -> list[int]:
            quantized = qdrant.QuantizationSearchParams(rescore=True, oversampling=3.0)
            params = qdrant.SearchParams(hnsw_ef=ef, quantization=quantized)
            nearest = qdrant.Query.Nearest(query.tolist())
            return [point.id for point in shard.query(qdrant.QueryRequest(10, query=nearest, params=params))]

        found = _best(
            {**built, **time_searches(rows, partial(search, ef=ef)), "ef_search": ef} for ef in (32, 64, 128, 256)
        )
        shard.close()
        return found


MANY = {"lancedb": many_in_lancedb, "chromadb": many_in_chroma, "qdrant-edge": many_in_qdrant_edge}


if __name__ == "__main__":
    assert Path(sys.argv[-1]).exists()
    main()
