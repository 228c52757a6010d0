"""Measures the retriever's quality and speed, and compares it with chromadb, lancedb and bm25s on the same vectors.

    make bench-retrieval                                  # the judged sets below ../shared/data/ir
    make bench-retrieval DATA="FOLDER FOLDER ..."         # others with corpus.jsonl, queries.jsonl, qrels/test.tsv
    python benchmarks/retrieval_quality.py --only million --rows 100000     # see retrieval_million.py

It measures the production code: the sets are sent to a retriever over gRPC, and the 100,000 vectors are searched in the
index that it uses. Vectors of the sets are cached in .pointsman/cache by the model's fingerprint. The last line of
output is one JSON object.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import faiss
import numpy as np
from pointsman_embedding import MiniLM, prepare
from pointsman_embedding.bert_graph import BertGraph
from pointsman_retriever.domain import CollectionId
from pointsman_retriever.filters import Eq
from pointsman_retriever.index import faiss_index, metadata_index
from pointsman_retriever.shared.pgvector import PgvectorStore
from pointsman_retriever.shared.stores import SharedStoreOptions
from retrieval_served import CachedModel, Chunks, Ranked, measure_rankings, measure_set
from retrieval_sets import JudgedSet, read_set
from threadpoolctl import threadpool_limits

ROOT = Path(__file__).parents[1]
MODEL = ROOT / ".pointsman/models/minilm"
CACHE = ROOT / ".pointsman/cache"
PEERS = ROOT / ".venv-bench/retrieval/bin/python"
PARTS = ("ndcg10", "ann", "embed", "churn", "million")
SETS = ("cranfield", "cisi", "pydocs-faq", "xquad-en")
ROWS, HELD_OUT, GROUPS = 100_000, 500, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="judged sets; default: the four standard ones")
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data/ir", help="folder of the standard sets")
    parser.add_argument("--only", nargs="*", default=list(PARTS), choices=PARTS, help="parts to measure")
    parser.add_argument("--rows", type=int, default=1_000_000, help="vectors of the part `million`")
    parser.add_argument("--minutes", type=float, default=20.0, help="for each store of the part `million`")
    parser.add_argument("--shared", default="", help="also measure the sets in this PostgreSQL: postgresql://...")
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    threadpool_limits(1)  # one thread per search
    folders = options.folders or [options.data / name for name in SETS]
    result: dict[str, object] = {}
    chunks: list[Chunks] = []
    if {"ndcg10", "ann"} & set(options.only):
        result["ndcg10"], chunks = measure_quality([read_set(folder) for folder in folders], options.shared)
    if "ann" in options.only:
        result["ann"] = measure_neighbours(chunks)
    if "embed" in options.only:
        result["embed"] = measure_embedding(chunks)
    if "churn" in options.only:
        from retrieval_churn import measure

        churned = measure()
        for asked, theirs in (("upserts_per_s", "churn_upserts_per_s"), ("search_p99_ratio", "churn_p99_ratio")):
            churned["churn"][asked] = churned["churn"].pop(theirs)
        result.update(churned)
    if "million" in options.only:
        import retrieval_million

        result["million"] = retrieval_million.measure(options.rows, options.data, options.minutes)
    print(json.dumps(result))


# -- quality


def measure_quality(sets: list[JudgedSet], shared: str = "") -> tuple[dict[str, dict[str, float]], list[Chunks]]:
    model = CachedModel(MiniLM.load(MODEL), CACHE)
    table: dict[str, dict[str, float]] = {}
    chunks = []
    for judged in sets:
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            measured, held = asyncio.run(measure_set(judged, model, Path(folder)))
            if shared:
                _compare_shared(judged, model, Path(folder), shared, measured)
        chunks.append(held)
        table[judged.name] = {name: ranked.mean for name, ranked in {**measured, **_peers(judged, held)}.items()}
        rivals = [(name, _difference(measured["default"], one)) for name, one in _peers_cached(judged).items()]
        print(_row(judged.name, table[judged.name], measured["default"], rivals), flush=True)
    _print_means(table)
    return table, chunks


def _compare_shared(judged: JudgedSet, model: CachedModel, folder: Path, url: str, local: dict[str, Ranked]) -> None:
    settings = {"shared_store": "pgvector", "shared_store_url": url, "shared_store_prefix": "pointsman_quality"}
    with closing(PgvectorStore(SharedStoreOptions(url, prefix=settings["shared_store_prefix"]))) as store:
        store.drop(CollectionId("default", "judged"))
        found = asyncio.run(measure_rankings(judged, model, folder / "shared", **settings))
        store.drop(CollectionId("default", "judged"))
    cells = (f"{mode} {one.mean:.4f} ({_difference(one, local[mode])} to FAISS)" for mode, one in found.items())
    print(f"{judged.name:<14} pgvector: {'  '.join(cells)}  ({found['default'].milliseconds:.1f} ms)", flush=True)


_PEERS: dict[str, dict[str, Ranked]] = {}


def _peers(judged: JudgedSet, held: Chunks) -> dict[str, Ranked]:
    if not PEERS.exists():
        print("(no .venv-bench/retrieval: peers are not measured; run `make bench-retrieval`)")
        return {}
    rows = held.for_peers(judged)
    found = _ask_peers("sets", rows)
    _PEERS[judged.name] = {name: held.judged(judged, ranking) for name, ranking in found.items()}
    return _PEERS[judged.name]


def _peers_cached(judged: JudgedSet) -> dict[str, Ranked]:
    return _PEERS.get(judged.name, {})


def _ask_peers(what: str, arrays: dict[str, np.ndarray]) -> dict:
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        np.savez(Path(folder) / "options.npz", **arrays)
        asked = [PEERS, Path(__file__).parent / "retrieval_peers.py", what, Path(folder) / "options.npz"]
        one_core = {**os.environ, "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
        peers = subprocess.run(asked, check=True, stdout=subprocess.PIPE, text=True, env=one_core)
        return json.loads(peers.stdout.splitlines()[-1])


def _difference(ours: Ranked, other: Ranked) -> str:
    """Returns the mean difference and its 95 % bootstrap interval over the queries."""
    differences = np.array(ours.each) - np.array(other.each)
    random = np.random.default_rng(1)
    means = random.choice(differences, (2_000, len(differences))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return f"{differences.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def _row(name: str, values: dict[str, float], ours: Ranked, rivals: list[tuple[str, str]]) -> str:
    cells = "  ".join(f"{mode} {value:.4f}" for mode, value in values.items())
    more = "; ".join(f"over {rival} {difference}" for rival, difference in rivals)
    return f"{name:<14} {cells}  ({ours.milliseconds:.1f} ms)  {more}"


def _print_means(table: dict[str, dict[str, float]]) -> None:
    means = {mode: float(np.mean([values[mode] for values in table.values()])) for mode in next(iter(table.values()))}
    best = max(means["bm25"], means["dense"])
    print(f"{'mean':<14} " + "  ".join(f"{mode} {value:.4f}" for mode, value in means.items()))
    print(f"default relative to the better single search: {means['default'] / best:.4f}")
    for name, values in table.items():
        margin = values["default"] - max(values["bm25"], values["dense"])
        print(f"  {name}: default {margin:+.4f} compared with the better single search")


# -- nearest neighbours among 100,000 vectors


def measure_neighbours(chunks: list[Chunks]) -> dict[str, float]:
    """Searches the sets' chunks and randomly perturbed copies of them, because embedding 100,000 texts would take too
    long.

    The queries are held-out chunks, of which there are no copies in the index.
    """
    vectors, queries = _hundred_thousand(chunks)
    ids = np.arange(1, len(vectors) + 1, dtype=np.int64)
    groups = np.random.default_rng(2).integers(0, GROUPS, len(vectors))
    nothing = np.empty(0, np.int64)
    flat = faiss_index.empty_faiss_index(vectors.shape[1]).with_changes(nothing, ids, vectors)
    metadata = metadata_index.empty_metadata_index().with_changes(
        nothing, ids, ids, [{"group": str(group)} for group in groups]
    )
    started = time.perf_counter()
    index = flat.compacted()
    seconds = time.perf_counter() - started
    truth = [_exact(vectors, query, None) for query in queries]
    inside = [_exact(vectors, query, groups == 0) for query in queries]
    recall, p50 = _timed(lambda query: index.nearest(query, 10, None), queries, truth)
    flat_recall, flat_p50 = _timed(lambda query: flat.nearest(query, 10, None), queries[:100], truth[:100])
    filtered, filtered_p50 = _timed(
        lambda query: index.nearest(query, 10, metadata.matching(Eq("group", "0"))), queries, inside
    )
    print(f"100,000 vectors, one core: recall@10 {recall:.4f}, p50 {p50:.3f} ms; built in {seconds:.1f} s")
    print(f"  flat: recall@10 {flat_recall:.4f}, p50 {flat_p50:.3f} ms")
    print(f"  with a filter that matches a tenth: recall@10 {filtered:.4f}, p50 {filtered_p50:.3f} ms")
    measured = {"recall10": recall, "p50_ms": p50, "filtered_recall10": filtered, "filtered_p50_ms": filtered_p50}
    if PEERS.exists():
        rows = {"truth": np.array(truth) - 1, "filtered_truth": np.array(inside) - 1, "groups": groups, "group": 0}
        theirs = _ask_peers("ann", {"vectors": vectors, "queries": queries, "recall": np.float64(0.98), **rows})
        print("  chromadb: " + ", ".join(f"{name} {value:.3f}" for name, value in theirs.items()))
        measured.update({f"chroma_{name}": value for name, value in theirs.items()})
    return measured


def _hundred_thousand(chunks: list[Chunks]) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    held = np.concatenate([one.vectors for one in chunks])
    held = held[random.permutation(len(held))]
    queries, rows = held[:HELD_OUT], held[HELD_OUT:]
    copies = -(-ROWS // len(rows))
    moved = [
        rows + random.normal(0.0, length / np.sqrt(rows.shape[1]), rows.shape)
        for length in np.linspace(0.3, 0.7, copies - 1)
    ]
    vectors = np.concatenate([rows, *moved])[:ROWS]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), queries


def _exact(vectors: np.ndarray, query: np.ndarray, allowed: np.ndarray | None) -> np.ndarray:
    cosines = vectors @ query
    if allowed is not None:
        cosines[~allowed] = -np.inf
    return np.argsort(-cosines, kind="stable")[:10] + 1


def _timed(search, queries, truth) -> tuple[float, float]:
    seconds, hits = [], 0
    for query, true in zip(queries, truth, strict=True):
        started = time.perf_counter()
        found = search(query)
        seconds.append(time.perf_counter() - started)
        hits += len(np.intersect1d(found, true))
    return hits / (10 * len(truth)), float(np.median(seconds) * 1000)


# -- embedding


def measure_embedding(chunks: list[Chunks]) -> dict[str, float]:
    model = MiniLM.load(MODEL)
    texts = [text for one in chunks for text in one.texts]
    queries = [query for one in chunks for query in one.queries]
    random = np.random.default_rng(3)
    queries = [queries[place] for place in random.permutation(len(queries))[:300]] or ["What does a ticket cost?"] * 300
    texts = [texts[place] for place in random.permutation(len(texts))[:600]]
    model.embed(queries[:20])
    seconds = []
    for query in queries:
        started = time.perf_counter()
        model.embed([query])
        seconds.append(time.perf_counter() - started)
    batches = [texts[start : start + 8] for start in range(0, len(texts), 8)]
    started = time.perf_counter()
    with ThreadPoolExecutor(2) as two:
        made = np.concatenate(list(two.map(model.embed, batches)))
    rate = len(texts) / (time.perf_counter() - started)
    cosine = float((made[:200] * _in_full_precision(texts[:200])).sum(axis=1).mean()) if texts else float("nan")
    p50 = float(np.median(seconds) * 1000)
    print(f"embedding: {p50:.2f} ms (p50, one thread), {rate:.0f} chunks/s on two cores, cosine to fp32 {cosine:.4f}")
    return {"query_p50_ms": p50, "chunks_per_s": rate, "cosine": cosine}


def _in_full_precision(texts: list[str]) -> np.ndarray:
    """Embeds with the same model before quantization."""
    import onnxruntime
    from safetensors.numpy import load_file

    folder = CACHE / "minilm-source"
    if not (folder / prepare.WEIGHTS).exists():
        folder.mkdir(parents=True, exist_ok=True)
        prepare.fetch(folder)
    graph = BertGraph(load_file(folder / prepare.WEIGHTS)).build()
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return MiniLM(session, MiniLM.load(MODEL).tokenizer, "fp32").embed(texts)


if __name__ == "__main__":
    sys.exit(main())
