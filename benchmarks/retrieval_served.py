"""Searches a judged set through a retriever's gRPC API, with embeddings that are cached between runs."""

import hashlib
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from pointsman.v1 import retriever_pb2 as pb
from pointsman.v1 import retriever_pb2_grpc
from pointsman_embedding import MiniLM
from pointsman_retriever import bootstrap
from pointsman_retriever.settings import Settings
from pointsman_servicekit.grpc_client import open_channel
from retrieval_sets import JudgedSet, ndcg10

AT_ONCE = 200  # documents per call
MODES: dict[str, dict[str, float]] = {"default": {}, "bm25": {"dense_weight": 0.0}, "dense": {"dense_weight": 1.0}}


class CachedModel:
    """The real embedding model with a persistent cache of embeddings."""

    def __init__(self, model: MiniLM, folder: Path) -> None:
        self.fingerprint, self.dimensions, self.tokenizer = model.fingerprint, model.dimensions, model.tokenizer
        self.max_tokens, self.query_prefix, self.passage_prefix = model.max_tokens, "", ""
        self._model = model
        self._lock = Lock()
        folder.mkdir(parents=True, exist_ok=True)
        name = "".join(character if character.isalnum() or character == "." else "_" for character in model.fingerprint)
        self._held = sqlite3.connect(folder / f"embeddings-{name}.sqlite3", check_same_thread=False, timeout=60)
        self._held.execute(
            "CREATE TABLE IF NOT EXISTS vectors (hash BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID"
        )

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        hashes = [hashlib.sha256(text.encode()).digest() for text in texts]
        with self._lock:
            held = [
                self._held.execute("SELECT vector FROM vectors WHERE hash = ?", (one,)).fetchone() for one in hashes
            ]
        missing = [place for place, one in enumerate(held) if one is None]
        made = self._model.embed([texts[place] for place in missing])
        vectors = np.stack(
            [
                np.zeros(self.dimensions, np.float32) if one is None else np.frombuffer(one[0], np.float32)
                for one in held
            ]
        )
        vectors[missing] = made
        if missing:
            with self._lock:
                rows = [(hashes[place], vectors[place].tobytes()) for place in missing]
                self._held.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)
                self._held.commit()
        return vectors


@dataclass(frozen=True)
class Ranked:
    each: list[float]  # nDCG@10 of each query
    milliseconds: float = float("nan")  # median of a search without its embedding

    @property
    def mean(self) -> float:
        return float(np.mean(self.each))


@dataclass(frozen=True)
class Chunks:
    """The chunks that the retriever made of a set."""

    documents: list[str]  # the document of each chunk
    texts: list[str]
    vectors: np.ndarray
    queries: list[str]
    asked: np.ndarray  # the queries' vectors

    def for_peers(self, judged: JudgedSet) -> dict[str, np.ndarray]:
        return {
            "vectors": self.vectors,
            "queries": self.asked,
            "texts": np.array(self.texts, dtype=np.str_),
            "asked": np.array(self.queries, dtype=np.str_),
        }

    def judged(self, judged: JudgedSet, found: list[list[int]]) -> Ranked:
        """Scores the rows that a peer found for each query; a document counts at its best row."""
        each = []
        for query, rows in zip(judged.queries, found, strict=True):
            documents = list(dict.fromkeys(self.documents[row] for row in rows))
            each.append(ndcg10(documents, judged.relevant[query]))
        return Ranked(each)


async def measure_set(judged: JudgedSet, model: CachedModel, folder: Path) -> tuple[dict[str, Ranked], Chunks]:
    names = {f"d{number}": document["id"] for number, document in enumerate(judged.documents)}
    measured = await measure_rankings(judged, model, folder)
    texts, owners, vectors = _chunks(folder / "data" / "default" / "judged" / "store.sqlite3")
    asked = model.embed(list(judged.queries.values()))
    held = Chunks([names[one] for one in owners], texts, vectors, list(judged.queries.values()), asked)
    return measured, held


async def measure_rankings(judged: JudgedSet, model: CachedModel, folder: Path, **further: str) -> dict[str, Ranked]:
    """Ingests a set into a retriever with the settings `further`, and searches it in each mode."""
    settings = Settings(
        listen="127.0.0.1:0", metrics_listen="127.0.0.1:0", data=folder / "data", search_threads=1, **further
    )
    names = {f"d{number}": document["id"] for number, document in enumerate(judged.documents)}
    async with bootstrap.run_service(settings, model) as running, open_channel(running.address) as channel:
        stub = retriever_pb2_grpc.RetrieverStub(channel)
        await stub.CreateCollection(pb.CreateCollectionRequest(name="judged"))
        documents = [
            pb.Document(id=number, title=document["title"], text=document["text"])
            for number, document in zip(names, judged.documents, strict=True)
        ]
        for start in range(0, len(documents), AT_ONCE):
            await stub.Upsert(pb.UpsertRequest(collection="judged", documents=documents[start : start + AT_ONCE]))
        asked = model.embed(list(judged.queries.values()))
        return {name: await _ranked(stub, judged, names, model, asked, mode) for name, mode in MODES.items()}


async def _ranked(
    stub: retriever_pb2_grpc.RetrieverStub,
    judged: JudgedSet,
    names: dict[str, str],
    model: CachedModel,
    asked: np.ndarray,
    mode: dict[str, float],
) -> Ranked:
    each, seconds = [], []
    for (query, text), vector in zip(judged.queries.items(), asked, strict=True):
        sent = pb.Vector(fingerprint=model.fingerprint, values=vector.tolist())
        started = time.perf_counter()
        answer = await stub.Search(
            pb.SearchRequest(collection="judged", query=text, vector=sent, top_k=10, per_document=1, **mode)
        )
        seconds.append(time.perf_counter() - started)
        each.append(ndcg10([names[one.document_id] for one in answer.passages], judged.relevant[query]))
    return Ranked(each, float(np.median(seconds) * 1000))


def _chunks(file: Path) -> tuple[list[str], list[str], np.ndarray]:
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as connection:
        rows = connection.execute(
            "SELECT documents.id, context, chunks.text, vector FROM chunks JOIN documents ON document = row "
            "ORDER BY chunks.id"
        ).fetchall()
    texts = [f"{context}\n\n{text}" if context else text for _, context, text, _ in rows]
    vectors = np.stack([np.frombuffer(vector, np.float32) for *_, vector in rows])
    return texts, [owner for owner, *_ in rows], vectors
