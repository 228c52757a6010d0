"""The default vector store: vectors in memory, compared exactly while they are few, then in a FAISS IVF index."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil, sqrt
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointsman_retriever import digests
from pointsman_retriever.domain import CollectionInfo, Ids, Vectors
from pointsman_retriever.index.append_only_array import AppendOnlyArray
from pointsman_retriever.index.vector_stores import VectorStoreOptions

try:
    import faiss
except ImportError as error:
    raise ImportError("FAISS is not installed: pip install 'pointsman-retriever[cpu]', or [gpu]") from error

Mask = NDArray[np.bool_]

LISTS_PER_ROOT_ROW = 4  # number of lists = 4 * sqrt(rows): finding the lists then costs about as much as scanning them
TRAINING_ROWS_PER_LIST = 40
KMEANS_ITERATIONS = 8  # more change the recall by less than its noise
CALIBRATION_QUERIES = 200  # vectors by which the number of lists to scan is chosen
CALIBRATION_NEAREST = 10
TARGET_RECALL = 0.99  # of the CALIBRATION_NEAREST nearest, over the calibration queries
MIN_PROBES = 8  # lists to scan, whatever the calibration says
PROBE_MARGIN = 1.5  # times the calibrated number: queries are less similar to the vectors than those are to each other
RESCORING_FACTOR = 3  # times the requested vectors are compared again exactly, because 8-bit values misorder neighbours
SEED = 1
MAX_GPU_RESULTS = 2048
MAX_GPU_PROBES = 2048


@dataclass(frozen=True, slots=True)
class Gpu:
    """Copies indexes to a GPU. FAISS's indexes there cannot filter, and serve one thread at a time."""

    copy: Callable[[Any], Any]
    """From a FAISS index to a copy of it on the GPU."""
    count_search: Callable[[str], None] = lambda device: None
    """Called with the device of each search of an IVF index: "gpu", or "cpu" for what the GPU cannot find."""
    lock: Lock = field(default_factory=Lock)


@dataclass(frozen=True, slots=True)
class IvfIndex:
    """An inverted-list index with 8-bit values. Immutable."""

    index: Any  # faiss.IndexIVFScalarQuantizer
    rows: int
    lists: int
    probes: int  # lists that a search without a filter scans
    gpu: Gpu | None = None
    gpu_index: Any = None  # used if its results contain enough allowed rows

    def nearest(self, vector: Vectors, count: int, allowed: Mask | None) -> NDArray[np.intp]:
        """Returns approximately the nearest rows, at least `count` if so many are allowed. None allows all rows."""
        allowed_rows = self.rows if allowed is None else int(np.count_nonzero(allowed))
        fetched = min(RESCORING_FACTOR * count, allowed_rows)
        if fetched == 0:
            return np.empty(0, np.intp)
        if self.gpu is not None:
            found = self._search_on_gpu(self.gpu, vector, fetched, allowed)
            self.gpu.count_search("gpu" if len(found) >= count else "cpu")
            if len(found) >= count:
                return found
        packed = None if allowed is None else np.packbits(allowed, bitorder="little")
        probes = min(self.lists, ceil(self.probes * self.rows / allowed_rows))
        found = self._search(self.index, vector, fetched, packed, probes)
        if len(found) < min(count, allowed_rows) and probes < self.lists:
            found = self._search(self.index, vector, fetched, packed, self.lists)
        return found

    def _search_on_gpu(self, gpu: Gpu, vector: Vectors, count: int, allowed: Mask | None) -> NDArray[np.intp]:
        """Returns the allowed ones of the `count` nearest rows; none if the GPU cannot find so many."""
        if max(count - MAX_GPU_RESULTS, self.probes - MAX_GPU_PROBES) > 0:
            return np.empty(0, np.intp)
        with gpu.lock:
            found = self._search(self.gpu_index, vector, count, None, self.probes)
        return found if allowed is None else found[allowed[found]]

    def _search(
        self, index: Any, vector: Vectors, count: int, allowed: NDArray[np.uint8] | None, probes: int
    ) -> NDArray[np.intp]:
        _, rows = index.search(vector.reshape(1, -1), count, params=_search_parameters(probes, allowed))
        found: NDArray[np.intp] = rows[0]
        return found[found >= 0]


def build_ivf_index(vectors: Vectors, gpu: Gpu | None) -> IvfIndex:
    """`vectors` is (rows, dimensions), unit length. Takes seconds for 100,000 rows."""
    rows, dimensions = vectors.shape
    lists = max(1, round(LISTS_PER_ROOT_ROW * sqrt(rows)))
    untyped: Any = faiss  # its type stubs describe the C++ signatures, without the defaults of the Python side
    index = untyped.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(dimensions),
        dimensions,
        lists,
        faiss.ScalarQuantizer.QT_8bit_uniform,  # one range for all values, which is the fastest to compare
        faiss.METRIC_INNER_PRODUCT,
        False,  # quantize the values themselves, not their difference from the list's centroid
    )
    index.cp.niter, index.cp.seed, index.cp.spherical = KMEANS_ITERATIONS, SEED, True
    index.cp.min_points_per_centroid = 1  # avoids a warning on stderr for the small indexes of tests
    nearest_centroids = gpu.copy(faiss.IndexFlatIP(dimensions)) if gpu else None
    index.clustering_index = nearest_centroids  # k-means takes most of the time; FAISS keeps no reference to it
    random = np.random.default_rng(SEED)
    index.train(vectors[random.permutation(rows)[: TRAINING_ROWS_PER_LIST * lists]])
    index.clustering_index = None
    index.add(vectors)
    ivf = IvfIndex(index, rows, lists, lists, gpu, gpu.copy(index) if gpu else None)
    return replace(ivf, probes=_calibrate_probes(ivf, vectors, random))


def _calibrate_probes(ivf: IvfIndex, vectors: Vectors, random: np.random.Generator) -> int:
    """Finds the fewest probes that reach TARGET_RECALL, by doubling and then bisection, and adds the margin."""
    sample = vectors[random.permutation(ivf.rows)[:CALIBRATION_QUERIES]]
    _, truth = faiss.knn(sample, vectors, CALIBRATION_NEAREST + 1, metric=faiss.METRIC_INNER_PRODUCT)
    low, high = 0, 1
    while high < ivf.lists and _measure_recall(ivf, sample, truth, high) < TARGET_RECALL:
        low, high = high, 2 * high
    high = min(high, ivf.lists)
    while high - low > max(1, high // 8):
        middle = (low + high) // 2
        if _measure_recall(ivf, sample, truth, middle) < TARGET_RECALL:
            low = middle
        else:
            high = middle
    return min(ivf.lists, max(MIN_PROBES, ceil(PROBE_MARGIN * high)))


def _measure_recall(ivf: IvfIndex, sample: Vectors, truth: NDArray[np.intp], probes: int) -> float:
    # Each vector is its own nearest and always found, so one more is fetched and not counted.
    _, found = ivf.index.search(sample, RESCORING_FACTOR * (CALIBRATION_NEAREST + 1), params=_search_parameters(probes))
    hits = sum(len(np.intersect1d(rows, true_rows)) for rows, true_rows in zip(found, truth, strict=True))
    return (hits - len(sample)) / (CALIBRATION_NEAREST * len(sample))


def _search_parameters(probes: int, allowed: NDArray[np.uint8] | None = None) -> Any:
    untyped: Any = faiss
    if allowed is None:
        return untyped.SearchParametersIVF(nprobe=probes)
    return untyped.SearchParametersIVF(sel=untyped.IDSelectorBitmap(allowed), nprobe=probes)


@dataclass(frozen=True, slots=True)
class IndexThresholds:
    """When the index changes its shape."""

    max_flat: int = 20_000  # vectors; up to here all are compared, which takes 2 ms, and lists would be too short
    max_exact_filtered: int = 1_000  # if a filter leaves at most so many vectors, they are compared exactly
    max_unindexed_share: float = 0.1  # of all rows: new vectors that are compared one by one until the IVF is rebuilt
    max_deleted_share: float = 0.25  # of all rows


@dataclass(frozen=True, slots=True)
class FaissIndex:
    """One immutable snapshot; implements VectorIndex.

    Snapshots share the append-only arrays; `alive` says which of their rows belong to this snapshot.
    """

    ids: AppendOnlyArray  # chunk id of each row, ascending
    vectors: AppendOnlyArray
    alive: Mask  # one flag for each row of this snapshot
    count: int
    checksum: int
    thresholds: IndexThresholds = IndexThresholds()
    gpu: Gpu | None = None
    ivf: IvfIndex | None = None  # of the first rows; later rows are compared one by one

    def with_changes(self, removed: Ids, added: Ids, vectors: Vectors) -> "FaissIndex":
        """`added` is ascending, and greater than all earlier ids. One thread at a time, on the latest snapshot."""
        alive = np.concatenate((self.alive, np.ones(len(added), np.bool_)))
        rows = self._find_rows(removed)
        alive[rows] = False
        lost = digests.checksum_vectors(self._ids[rows], self._vectors[rows]) if len(rows) else 0
        if len(added):
            self.ids.append(len(self.alive), added)
            self.vectors.append(len(self.alive), vectors)
        return replace(
            self,
            alive=alive,
            count=self.count + len(added) - len(rows),
            checksum=self.checksum ^ lost ^ (digests.checksum_vectors(added, vectors) if len(added) else 0),
        )

    def nearest(self, vector: Vectors, count: int, among: Ids | None) -> Ids:
        """Returns the ids of at most `count` vectors, nearest first; only ids in `among`, unless it is None."""
        allowed = self._live_mask if among is None else self._mask_of(among)
        allowed_rows = self.count if allowed is None or among is None else int(np.count_nonzero(allowed))
        if min(count, allowed_rows) == 0:
            return np.empty(0, np.int64)
        rows = self._candidates(vector, count, allowed, allowed_rows)
        cosines = self._vectors[rows] @ vector
        best = np.lexsort((rows, -cosines))[:count]
        found: Ids = self._ids[rows[best]]
        return found

    def get(self, ids: Ids) -> Vectors:
        """Returns (ids, dimensions); all ids must be in this snapshot."""
        found: Vectors = self._vectors[np.searchsorted(self._ids, ids)]
        return found

    @property
    def needs_compaction(self) -> bool:
        rows = len(self.alive)
        if rows - self.count > max(self.thresholds.max_deleted_share * rows, self.thresholds.max_flat / 4):
            return True
        indexed = self.ivf.rows if self.ivf else 0
        return self.count > self.thresholds.max_flat and rows - indexed > self.thresholds.max_unindexed_share * rows

    def compacted(self) -> "FaissIndex":
        """Returns the same vectors without deleted rows, in an IVF index if there are many; takes seconds."""
        rows = np.flatnonzero(self.alive)
        ids, vectors = AppendOnlyArray(np.int64), AppendOnlyArray(np.float32, self._vectors.shape[1])
        ids.append(0, self._ids[rows])
        for start in range(0, len(rows), 4096):  # in blocks, each of which holds the GIL for a short time only
            vectors.append(start, self._vectors[rows[start : start + 4096]])
        is_large = self.count > self.thresholds.max_flat
        ivf = build_ivf_index(vectors.first(len(rows)), self.gpu) if is_large else None
        return replace(self, ids=ids, vectors=vectors, alive=np.ones(len(rows), np.bool_), ivf=ivf)

    def close(self) -> None:
        """Nothing to do: memory is freed with the last reference."""

    @property
    def _ids(self) -> Ids:
        return self.ids.first(len(self.alive))

    @property
    def _vectors(self) -> Vectors:
        return self.vectors.first(len(self.alive))

    def _find_rows(self, ids: Ids) -> NDArray[np.intp]:
        """Returns the live rows with these ids; ids without one are ignored."""
        rows = np.searchsorted(self._ids, ids)
        rows = rows[rows < len(self.alive)]
        exists = np.isin(self._ids[rows], ids)
        return rows[exists & self.alive[rows]]

    @property
    def _live_mask(self) -> Mask | None:
        """None if no row is deleted: searching without a mask is the fastest."""
        return None if self.count == len(self.alive) else self.alive

    def _mask_of(self, among: Ids) -> Mask:
        """A mask of the live rows with these ids; a table over the range of ids is faster than a search for each."""
        ids = self._ids
        if not len(ids) or not len(among):
            return np.zeros(len(ids), np.bool_)
        first = ids[0]
        table = np.zeros(int(ids[-1] - first) + 1, np.bool_)
        table[among[(among >= first) & (among <= ids[-1])] - first] = True
        mask: Mask = table[ids - first]
        mask &= self.alive
        return mask

    def _candidates(self, vector: Vectors, count: int, allowed: Mask | None, allowed_rows: int) -> NDArray[np.intp]:
        """Returns rows that contain the nearest ones: all allowed rows if these are few."""
        if allowed_rows <= max(count, self.thresholds.max_exact_filtered):
            return np.arange(allowed_rows) if allowed is None else np.flatnonzero(allowed)
        if self.ivf is None:
            return self._nearest_rows(vector, count, allowed, 0)
        rows = self.ivf.rows
        found = self.ivf.nearest(vector, count, None if allowed is None else allowed[:rows])
        if rows == len(self.alive):
            return found
        return np.concatenate((found, self._nearest_rows(vector, count, allowed, rows)))

    def _nearest_rows(self, vector: Vectors, count: int, allowed: Mask | None, start: int) -> NDArray[np.intp]:
        """Returns the exactly nearest rows from row `start` on, which must exist."""
        cosines = self._vectors[start:] @ vector
        if allowed is not None:
            cosines[~allowed[start:]] = -np.inf
        best = np.argpartition(cosines, -min(count, len(cosines)))[-count:]
        found: NDArray[np.intp] = best[np.isfinite(cosines[best])] + start
        return found


def empty_faiss_index(
    dimensions: int, thresholds: IndexThresholds = IndexThresholds(), gpu: Gpu | None = None
) -> FaissIndex:
    ids, vectors = AppendOnlyArray(np.int64), AppendOnlyArray(np.float32, dimensions)
    return FaissIndex(ids, vectors, np.empty(0, np.bool_), 0, 0, thresholds=thresholds, gpu=gpu)


def first_gpu() -> Callable[[Any], Any]:
    """Returns a function that copies an index to the first GPU."""
    untyped: Any = faiss  # FAISS for CPUs has none of this
    return partial(untyped.index_cpu_to_gpu, untyped.StandardGpuResources(), 0)


class FaissStore:
    """Implements VectorStore: memory of this process, and the first GPU if this build of FAISS finds one."""

    def __init__(self, options: VectorStoreOptions | None = None) -> None:
        faiss.omp_set_num_threads(1)  # a search runs in its own thread and uses no other core
        self._gpu: Gpu | None = None
        if faiss.get_num_gpus():
            self._gpu = Gpu(first_gpu(), (options or VectorStoreOptions()).count_search)

    def empty_index(self, collection: CollectionInfo) -> FaissIndex:
        return empty_faiss_index(collection.dimensions, gpu=self._gpu)

    def close(self) -> None:
        """Nothing to do."""
