"""Reads judged collections in BEIR's format and computes nDCG@10; reads files of many vectors and times searches."""

import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class JudgedSet:
    name: str
    documents: list[dict[str, str]]  # id, title, text
    queries: dict[str, str]
    relevant: dict[str, dict[str, float]]  # grade of each relevant document, by query


def read_set(folder: Path) -> JudgedSet:
    """Reads `corpus.jsonl`, `queries.jsonl` and `qrels/test.tsv`. Queries without a relevant document are skipped."""
    documents = []
    for row in _rows(folder / "corpus.jsonl"):
        title, text = row.get("title") or "", row.get("text") or ""
        if not text.strip():
            title, text = "", title
        if text.strip():  # documents without text cannot be found
            documents.append({"id": str(row["_id"]), "title": title, "text": text})
    known = {document["id"] for document in documents}
    relevant: dict[str, dict[str, float]] = {}
    for line in (folder / "qrels" / "test.tsv").read_text("utf-8").splitlines()[1:]:
        query, document, grade = line.split("\t")
        if float(grade) > 0 and document in known:
            relevant.setdefault(query, {})[document] = float(grade)
    queries = {str(row["_id"]): row["text"] for row in _rows(folder / "queries.jsonl") if str(row["_id"]) in relevant}
    return JudgedSet(folder.name, documents, queries, relevant)


def ndcg10(found: Sequence[str], relevant: Mapping[str, float]) -> float:
    """Computes the measure like trec_eval: the gain is the grade divided by log2(rank + 1), and each document counts
    once.
    """
    gain = sum(relevant.get(one, 0.0) / math.log2(rank + 2) for rank, one in enumerate(found[:10]))
    best = sorted(relevant.values(), reverse=True)[:10]
    return gain / sum(grade / math.log2(rank + 2) for rank, grade in enumerate(best))


def _rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines() if line.strip()]


class VectorFile:
    """The vectors, queries and true neighbours that retrieval_million.py has written.

    The vectors are read in slices and never mapped, so that they do not count as memory of the process.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "vectors.f32"
        self.queries, self.truth = np.load(folder / "queries.npy"), np.load(folder / "truth.npy")
        self.dimensions = self.queries.shape[1]
        self.count = self._file.stat().st_size // (4 * self.dimensions)

    def slices(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yields the number of the first row of each slice, and its vectors."""
        with self._file.open("rb") as file:
            for first in range(0, self.count, size):
                values = np.fromfile(file, np.float32, min(size, self.count - first) * self.dimensions)
                yield first, values.reshape(-1, self.dimensions)


def time_searches(rows: VectorFile, search: Callable[[np.ndarray], Iterable[int]]) -> dict[str, float]:
    """Times the queries one by one; `search` returns the ten nearest rows. The first ten queries are a warm-up."""
    for query in rows.queries[:10]:
        search(query)
    seconds, hits = [], 0
    for query, true in zip(rows.queries, rows.truth, strict=True):
        started = time.perf_counter(), time.process_time()
        found = search(query)
        seconds.append((time.perf_counter() - started[0], time.process_time() - started[1]))
        hits += len(set(found) & set(true.tolist()))
    p50, p50_cpu = np.median(seconds, axis=0) * 1000
    return {"p50_ms": float(p50), "p50_cpu_ms": float(p50_cpu), "recall10": hits / rows.truth.size}


def built_since(started: float) -> dict[str, float]:
    """Returns the seconds of a build that started at `started`, and the CPU seconds of this process, which depend less
    on other programs. Also the process's own memory, its memory including pages of files, and its peak memory.
    """
    found = dict(re.findall(r"(RssAnon|VmRSS|VmHWM):\s+(\d+) kB", Path("/proc/self/status").read_text()))
    names = {"memory_mb": "RssAnon", "with_files_mb": "VmRSS", "peak_mb": "VmHWM"}
    seconds = {"build_s": time.perf_counter() - started, "build_cpu_s": time.process_time()}
    return seconds | {name: int(found[key]) / 1024 for name, key in names.items()}
