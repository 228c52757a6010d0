"""Reads judged collections in BEIR's format, and computes nDCG@10."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


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
    once."""
    gain = sum(relevant.get(one, 0.0) / math.log2(rank + 2) for rank, one in enumerate(found[:10]))
    best = sorted(relevant.values(), reverse=True)[:10]
    return gain / sum(grade / math.log2(rank + 2) for rank, grade in enumerate(best))


def _rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines() if line.strip()]
