"""Builds an index over 1,000,000 vectors and searches it, and does the same with other stores: build time, memory,
median search time, recall@10.

    python benchmarks/retrieval_million.py [--rows 1000000] [--only pointsman lancedb ...] [--minutes 30]

The vectors are those of the judged sets' documents and copies of them, perturbed at random. Each store runs in a
process of its own on one thread, and is stopped after `--minutes`. Vectors and results are kept in
.pointsman/cache/million, so that the work can be done in parts: a store that has a result is not measured again unless
`--again` is set. The last line of output is one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import faiss
import numpy as np
from pointsman_embedding import MiniLM
from pointsman_retriever.index.faiss_index import empty_faiss_index
from retrieval_sets import VectorFile, built_since, read_set, time_searches

ROOT = Path(__file__).parents[1]
MODEL = ROOT / ".pointsman/models/minilm"
CACHE = ROOT / ".pointsman/cache/million"
PEERS = ROOT / ".venv-bench/retrieval/bin/python"
STORES = ("pointsman", "lancedb", "chromadb", "qdrant-edge")
QUERIES, NEAREST, SLICE = 200, 10, 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--only", nargs="*", default=list(STORES), choices=STORES)
    parser.add_argument("--minutes", type=float, default=30.0, help="for each store")
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data/ir", help="folder of the judged sets")
    parser.add_argument("--again", action="store_true", help="measure stores that have a result, too")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # in the process of one store
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(pointsman(VectorFile(options.measure))))
        return
    print(json.dumps({"million": measure(options.rows, options.data, options.minutes, options.only, options.again)}))


def measure(
    rows: int, data: Path, minutes: float, stores: Sequence[str] = STORES, again: bool = False
) -> dict[str, object]:
    folder = prepare(rows, data)
    return {"rows": rows, **{name: measure_store(name, folder, minutes, again) for name in stores}}


def measure_store(name: str, folder: Path, minutes: float, again: bool) -> dict[str, float | str]:
    result = folder / f"{name}.json"
    if result.exists() and not again:
        return json.loads(result.read_text())
    if name == "pointsman":
        program = [sys.executable, __file__, "--measure", str(folder)]
    elif PEERS.exists():
        program = [str(PEERS), str(Path(__file__).parent / "retrieval_peers.py"), name, str(folder)]
    else:
        return {"failed": "no .venv-bench/retrieval: run `make .venv-bench/retrieval/.done`"}
    threads = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "LANCE_CPU_THREADS", "TOKIO_WORKER_THREADS")
    try:
        log = (folder / f"{name}.log").open("w")
        done = subprocess.run(
            program,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            timeout=60 * minutes,
            env={**os.environ, **dict.fromkeys(threads, "1")},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not ready after {minutes:g} minutes"}
    if done.returncode:
        return {"failed": f"exit code {done.returncode}; see {log.name}"}
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"{name}: " + ", ".join(f"{key} {value:,.3f}" for key, value in found.items()), flush=True)
    result.write_text(json.dumps(found))
    return found


def pointsman(rows: VectorFile) -> dict[str, float]:
    """Measures the retriever's own index: it is filled in slices, as from the retriever's store, and searched in a
    thread of its own.
    """
    faiss.omp_set_num_threads(1)
    nothing, started = np.empty(0, np.int64), time.perf_counter()
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        index = empty_faiss_index(rows.dimensions, folder=Path(folder))
        for first, vectors in rows.slices(SLICE):
            index = index.with_changes(nothing, np.arange(first, first + len(vectors), dtype=np.int64), vectors)
        index = index.compacted()
        built = built_since(started)
        searched = time_searches(rows, lambda query: index.nearest(query, NEAREST, None))
        return {**built, **searched, "probes": index.ivf.probes if index.ivf else 0}


# -- vectors


def prepare(count: int, data: Path) -> Path:
    """Writes the vectors, the queries and the true neighbours, unless they exist. Returns their folder."""
    folder = CACHE / str(count)
    if (folder / "truth.npy").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    held = _embedded(data)
    random = np.random.default_rng(1)
    held = held[random.permutation(len(held))]
    queries, rows = held[:QUERIES], held[QUERIES:]
    best = np.full((QUERIES, NEAREST), -np.inf), np.zeros((QUERIES, NEAREST), np.int64)
    with (folder / "vectors.f32").open("wb") as file:
        for first in range(0, count, SLICE):
            vectors = _slice(rows, first, min(SLICE, count - first), random)
            file.write(vectors.tobytes())
            best = _merge(best, queries @ vectors.T, first)
    np.save(folder / "queries.npy", queries)
    np.save(folder / "truth.npy", best[1])
    return folder


def _embedded(data: Path) -> np.ndarray:
    file = CACHE / "documents.npy"
    if not file.exists():
        model = MiniLM.load(MODEL)
        sets = [read_set(folder) for folder in sorted(data.iterdir()) if (folder / "corpus.jsonl").exists()]
        texts = [f"{document['title']}\n\n{document['text']}"[:1000] for each in sets for document in each.documents]
        texts.sort(key=len)
        vectors = [model.embed(texts[start : start + 16]) for start in range(0, len(texts), 16)]
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, np.unique(np.concatenate(vectors), axis=0))
    return np.load(file)


def _slice(rows: np.ndarray, first: int, count: int, random: np.random.Generator) -> np.ndarray:
    """Returns a slice of the rows: first the documents, then copies that are perturbed by 0.3 to 0.7 of their
    length.
    """
    which = np.arange(first, first + count)
    length = np.where(which < len(rows), 0.0, random.uniform(0.3, 0.7, count)) / np.sqrt(rows.shape[1])
    moved = rows[which % len(rows)] + length[:, None] * random.normal(size=(count, rows.shape[1]))
    return (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)


def _merge(best: tuple[np.ndarray, np.ndarray], cosines: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the nearest rows so far, by their cosines and their numbers."""
    found = np.argpartition(cosines, -NEAREST, axis=1)[:, -NEAREST:]
    values = np.concatenate((best[0], np.take_along_axis(cosines, found, 1)), axis=1)
    numbers = np.concatenate((best[1], found + first), axis=1)
    order = np.argsort(-values, axis=1)[:, :NEAREST]
    return np.take_along_axis(values, order, 1), np.take_along_axis(numbers, order, 1)


if __name__ == "__main__":
    main()
