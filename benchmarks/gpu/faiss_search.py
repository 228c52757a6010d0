"""Builds the retriever's index over random vectors and searches it, on the CPU and on the first GPU."""

import time
from dataclasses import dataclass

import faiss
import numpy as np
from pointsman_retriever.index.ivf_index import Gpu, build_ivf_index, first_gpu

DIMENSIONS, QUERIES, NEAREST = 384, 500, 10
CLUSTERS = 1_000


@dataclass(frozen=True, slots=True)
class SearchResult:
    vectors: int
    build_s: float
    p50_ms: float
    """Of one search at a time."""
    recall: float
    """The share of the true nearest that are among the candidates."""


def measure_faiss(rows: int) -> dict[str, SearchResult]:
    """Returns a result for "cpu", and one for "gpu" if FAISS sees a GPU."""
    random = np.random.default_rng(1)
    centres = random.normal(size=(CLUSTERS, DIMENSIONS))
    vectors = centres[random.integers(0, len(centres), rows + QUERIES)] + random.normal(
        size=(rows + QUERIES, DIMENSIONS)
    )
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    vectors, queries = vectors[:rows], vectors[rows:]
    _, true = faiss.knn(queries, vectors, NEAREST, metric=faiss.METRIC_INNER_PRODUCT)
    devices: dict[str, Gpu | None] = {"cpu": None}
    if gpu := first_gpu():
        devices["gpu"] = gpu
    found = {}
    for device, gpu in devices.items():
        started = time.perf_counter()
        index = build_ivf_index(vectors, gpu)
        built, milliseconds, hits = time.perf_counter() - started, [], 0
        for query, expected in zip(queries, true, strict=True):
            started = time.perf_counter()
            nearest = index.nearest(query, NEAREST, None)
            milliseconds.append(1e3 * (time.perf_counter() - started))
            hits += len(np.intersect1d(nearest, expected))
        found[device] = SearchResult(rows, built, float(np.median(milliseconds)), hits / (NEAREST * QUERIES))
    return found
