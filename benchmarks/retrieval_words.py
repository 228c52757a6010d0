"""Compares the retriever's word index with SQLite FTS5: quality on the judged sets, speed, memory, updates and filters.

    .venv/bin/python benchmarks/retrieval_words.py                 # the judged sets below ../shared/data/ir
    .venv/bin/python benchmarks/retrieval_words.py FOLDER ...      # others: corpus.jsonl, queries.jsonl, qrels/test.tsv

Every variant indexes the same chunks, and the retriever's own ranking uses it in place of its word index:

* `ours`: the word index that the retriever serves from.
* `fts5`: FTS5 with its own tokenizer (`porter unicode61`). Stop words are removed from queries as for `ours`.
* `fts5 terms`: FTS5 on the terms of the retriever's analyzer, so that only the ranking function differs.

FTS5 stores no texts (`contentless_delete`), since the retriever has them already. Each variant runs in a process of its
own, so that its memory can be measured. The last line is one JSON object.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from pointsman_embedding import MiniLM
from pointsman_retriever.domain import SearchOptions, SearchSettings
from pointsman_retriever.index import faiss_index, metadata_index
from pointsman_retriever.index.bm25 import empty_word_index
from pointsman_retriever.index.snapshot import IndexSnapshot
from pointsman_retriever.index.term_analyzer import TermAnalyzer
from pointsman_retriever.search.ranking import ResolvedQuery, rank
from retrieval_served import CachedModel, Chunks, measure_set
from retrieval_sets import JudgedSet, ndcg10, read_set
from threadpoolctl import threadpool_limits

ROOT = Path(__file__).parents[1]
MODEL = ROOT / ".pointsman/models/minilm"
CACHE = ROOT / ".pointsman/cache"
SETS = ("cranfield", "cisi", "pydocs-faq", "xquad-en")
VARIANTS = ("ours", "fts5", "fts5 terms")
CANDIDATES = 100
SPEED_ROWS = 100_000
SPEED_QUERIES = 200
UPDATES, CHUNKS_PER_UPDATE = 300, 5
FILTER_SHARE = 0.1
NOTHING = np.empty(0, np.int64)


@dataclass
class FtsScores:
    """The scores of all matching chunks, with the methods of the retriever's `WordScores` that the ranking calls."""

    ids: np.ndarray
    scores: np.ndarray

    def best(self, count: int, among: np.ndarray | None) -> np.ndarray:
        ids, scores = self.ids, self.scores
        if among is not None:
            allowed = np.isin(ids, among, assume_unique=True)
            ids, scores = ids[allowed], scores[allowed]
        return np.sort(ids[np.lexsort((ids, -scores))[:count]])

    def scores_of(self, ids: np.ndarray) -> np.ndarray:
        if not len(self.ids):
            return np.zeros(len(ids))
        places = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.where(self.ids[places] == ids, self.scores[places], 0.0)

    def coverage(self, ids: np.ndarray) -> np.ndarray:
        """Returns zeros: FTS5 does not report which terms match, and the order of the results does not depend on
        that.
        """
        return np.zeros(len(ids))


class FtsWords:
    """BM25 search by SQLite's FTS5 in a database file, with the interface of the retriever's `WordIndex`."""

    count = 0

    def __init__(self, file: Path, own_terms: bool) -> None:
        self._analyzer = TermAnalyzer()
        self._own_terms = own_terms
        tokenizer = "unicode61 remove_diacritics 0 tokenchars '_'" if own_terms else "porter unicode61"
        self.connection = sqlite3.connect(file)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = NORMAL")
        self.connection.execute(
            "CREATE VIRTUAL TABLE IF NOT EXISTS words "
            f'USING fts5(text, content="", contentless_delete=1, tokenize="{tokenizer}")'
        )

    def with_changes(self, removed: np.ndarray, added: np.ndarray, texts: Sequence[str]) -> "FtsWords":
        with self.connection:
            self.connection.executemany("DELETE FROM words WHERE rowid = ?", [(row,) for row in removed.tolist()])
            rows = zip(added.tolist(), map(self._indexed, texts), strict=True)
            self.connection.executemany("INSERT INTO words (rowid, text) VALUES (?, ?)", rows)
        return self

    def score(self, query: str) -> FtsScores:
        found = self.connection.execute("SELECT rowid, rank FROM words WHERE words MATCH ?", (self._match(query),))
        rows = np.array(found.fetchall()).reshape(-1, 2)
        return FtsScores(rows[:, 0].astype(np.int64), -rows[:, 1])

    def best_only(self, query: str) -> list[tuple[int]]:
        """Returns only the candidates. The ranking also needs other chunks' scores, so this is a lower bound of the
        time.
        """
        statement = f"SELECT rowid FROM words WHERE words MATCH ? ORDER BY rank LIMIT {CANDIDATES}"
        return self.connection.execute(statement, (self._match(query),)).fetchall()

    def _indexed(self, text: str) -> str:
        return " ".join(self._analyzer.document_terms(text).elements()) if self._own_terms else text

    def _match(self, query: str) -> str:
        terms = self._analyzer.query_terms(query).elements() if self._own_terms else _words_of(query)
        return " OR ".join(f'"{term}"' for term in terms) or '""'


def _words_of(query: str) -> list[str]:
    """Returns the query's words without stop words. They are not stemmed, because FTS5's tokenizer does that."""
    from pointsman_retriever.index.term_analyzer import _STOP_WORDS, _split_words

    words = _split_words(query)
    return [word for word in words if word not in _STOP_WORDS] or words


def build(variant: str, folder: Path, ids: np.ndarray, texts: Sequence[str]) -> Any:
    empty: Any = (
        empty_word_index(TermAnalyzer())
        if variant == "ours"
        else FtsWords(folder / "words.sqlite3", variant == "fts5 terms")
    )
    for start in range(0, len(ids), 1000):
        empty = empty.with_changes(NOTHING, ids[start : start + 1000], texts[start : start + 1000])
    return empty


# -- quality


def without_vectors(judged: JudgedSet) -> Chunks:
    """Returns one chunk per document, without vectors, for sets that would take too long to embed."""
    texts = [f"{document['title']}\n\n{document['text']}".strip() for document in judged.documents]
    queries = list(judged.queries.values())
    documents = [document["id"] for document in judged.documents]
    return Chunks(documents, texts, np.zeros((len(texts), 1), np.float32), queries, np.zeros((len(queries), 1)))


@dataclass
class Quality:
    """For each query: nDCG@10 of hybrid search and of word search, and the share of relevant documents among the
    candidates of the word search.
    """

    default: list[float] = field(default_factory=list)
    words: list[float] = field(default_factory=list)
    recall: list[float] = field(default_factory=list)


def measure_quality(variant: str, judged: JudgedSet, chunks: Chunks, embedded: bool) -> Quality:
    ids = np.arange(1, len(chunks.texts) + 1)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(chunks.documents), 1)}
    documents = np.array([numbers[name] for name in chunks.documents])
    names = {number: name for name, number in numbers.items()}
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        snapshot = IndexSnapshot(
            faiss_index.empty_faiss_index(chunks.vectors.shape[1]).with_changes(NOTHING, ids, chunks.vectors),
            build(variant, Path(folder), ids, chunks.texts),
            metadata_index.empty_metadata_index().with_changes(NOTHING, ids, documents, [{}] * len(ids)),
        )
        quality = Quality()
        for (query, text), vector in zip(judged.queries.items(), chunks.asked, strict=True):
            relevant = judged.relevant[query]

            def ndcg(weight: float | None, text: str = text, vector: Any = vector, relevant: Any = relevant) -> float:
                options = SearchOptions(top_k=10, per_document=1, dense_weight=weight)
                ranking = rank(snapshot, ResolvedQuery(text, vector, "", None, options), SearchSettings())
                return ndcg10([names[documents[chunk.chunk - 1]] for chunk in ranking.chunks], relevant)

            quality.default.append(ndcg(None) if embedded else float("nan"))
            quality.words.append(ndcg(0.0))
            found = {names[documents[row - 1]] for row in snapshot.words.score(text).best(CANDIDATES, None)}
            quality.recall.append(len(found & relevant.keys()) / len(relevant))
    return quality


def difference(one: list[float], other: list[float]) -> str:
    """Returns the mean of `one - other` and its 95 % bootstrap interval over the queries."""
    differences = np.array(one) - np.array(other)
    means = np.random.default_rng(1).choice(differences, (2_000, len(differences))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return f"{differences.mean():+.4f} [{low:+.4f}, {high:+.4f}]"


# -- speed and memory; each variant runs in its own process


def measure_speed(variant: str, texts: list[str], queries: list[str], row_count: int) -> dict[str, float]:
    """Measures the speed with `texts`, which are repeated until there are `row_count` rows."""
    threadpool_limits(1)
    rows = (texts * -(-row_count // len(texts)))[:row_count]
    ids = np.arange(1, len(rows) + 1)
    allowed = np.sort(np.random.default_rng(2).choice(ids, int(FILTER_SHARE * len(ids)), replace=False))
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        before, start = _resident_mib(), time.perf_counter()
        words = build(variant, Path(folder), ids, rows)
        if variant == "ours":
            words = words.compacted()
        measured = {"build_s": time.perf_counter() - start}

        def search(query: str, among: np.ndarray | None) -> None:
            scores = words.score(query)
            scores.scores_of(scores.best(CANDIDATES, among))

        measured |= _percentiles("search", lambda query: search(query, None), queries)
        measured |= _percentiles("filtered", lambda query: search(query, allowed), queries)
        if variant != "ours":
            measured |= _percentiles("candidates_only", words.best_only, queries)
        measured["memory_mib"] = _resident_mib() - before
        measured["disk_mib"] = sum(file.stat().st_size for file in Path(folder).iterdir()) / 2**20
        measured |= _measure_updates(words, ids, rows)
    return measured


def _measure_updates(words: Any, ids: np.ndarray, rows: list[str]) -> dict[str, float]:
    """Measures updates: documents are replaced one after another, as upserts do."""
    next_id, seconds = len(ids) + 1, []
    for update in range(UPDATES):
        old = ids[update * CHUNKS_PER_UPDATE : (update + 1) * CHUNKS_PER_UPDATE]
        new = np.arange(next_id, next_id + len(old))
        next_id += len(old)
        start = time.perf_counter()
        words = words.with_changes(old, new, [rows[row - 1] for row in old])
        seconds.append(time.perf_counter() - start)
    return {
        "update_p50_ms": float(np.median(seconds) * 1000),
        "update_p99_ms": float(np.quantile(seconds, 0.99) * 1000),
    }


def _percentiles(name: str, search: Callable[[str], object], queries: list[str]) -> dict[str, float]:
    seconds = []
    for query in queries:
        start = time.perf_counter()
        search(query)
        seconds.append(time.perf_counter() - start)
    return {
        f"{name}_p50_ms": float(np.median(seconds) * 1000),
        f"{name}_p95_ms": float(np.quantile(seconds, 0.95) * 1000),
    }


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="judged sets; default: the four standard ones")
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data/ir", help="folder of the standard sets")
    parser.add_argument(
        "--words-only", nargs="*", default=[], help="sets not to embed, for which `default` is not valid"
    )
    parser.add_argument(
        "--rows", type=int, default=SPEED_ROWS, help="chunks to measure the speed with; 0: those of the sets"
    )
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(1)
    threadpool_limits(1)
    model = CachedModel(MiniLM.load(MODEL), CACHE)
    result: dict[str, Any] = {"sqlite": sqlite3.sqlite_version, "quality": {}, "speed": {}}
    texts: list[str] = []
    queries: list[str] = []
    for folder in arguments.folders or [arguments.data / name for name in SETS]:
        judged = read_set(folder)
        with tempfile.TemporaryDirectory(dir=CACHE) as data:
            embedded = judged.name not in arguments.words_only
            served, chunks = (
                asyncio.run(measure_set(judged, model, Path(data))) if embedded else ({}, without_vectors(judged))
            )
        texts += chunks.texts
        queries += chunks.queries
        found = {variant: measure_quality(variant, judged, chunks, embedded) for variant in VARIANTS}
        print(f"{judged.name}: {len(chunks.texts)} chunks, {len(chunks.queries)} queries")
        for name, ranked in served.items():
            print(f"  served by the retriever, {name}: {ranked.mean:.4f}")
        result["quality"][judged.name] = {}
        for variant, quality in found.items():
            means = {name: float(np.mean(values)) for name, values in vars(quality).items()}
            result["quality"][judged.name][variant] = means
            against = {name: difference(values, vars(found["ours"])[name]) for name, values in vars(quality).items()}
            row = "  ".join(f"{name} {means[name]:.4f} ({against[name]})" for name in means)
            print(f"  {variant:<11}{row}", flush=True)
    random = np.random.default_rng(3)
    queries = [queries[place] for place in random.permutation(len(queries))[:SPEED_QUERIES]]
    texts = [texts[place] for place in random.permutation(len(texts))]
    row_count = arguments.rows or len(texts)
    print(f"{row_count:,} chunks from {len(texts):,} texts, {len(queries)} queries, one thread:")
    for variant in VARIANTS:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            measured = process.submit(measure_speed, variant, texts, queries, row_count).result()
        result["speed"][variant] = measured
        print(f"  {variant:<11}" + "  ".join(f"{name} {value:.2f}" for name, value in measured.items()), flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
