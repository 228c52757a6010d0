"""A FAISS index of inverted lists (IVF) with 8-bit values, built and searched on the CPU or on a GPU."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil, sqrt
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointsman_retriever.domain import Vectors

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
MIN_PROBED_SHARE = 1 / 128  # of the lists: a vector with near-duplicates finds them in few lists, a query does not
PROBE_MARGIN = 1.5  # times the calibrated number: queries are less similar to the vectors than those are to each other
RESCORING_FACTOR = 3  # times the requested vectors are compared again exactly, because 8-bit values misorder neighbours
SEED = 1
MAX_GPU_RESULTS = 2048
MAX_GPU_PROBES = 2048


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU to which vector indexes are copied.

    FAISS's indexes on a GPU cannot filter by id, and only one thread at a time may use them: a search holds `lock`.
    """

    copy: Callable[[Any], Any]
    """A function that copies a FAISS index to the GPU, and returns the copy."""
    count_search: Callable[[str], None] = lambda device: None
    """A function that is called once for each search of an IVF index: with "gpu", or with "cpu" if the GPU found too
    few results.
    """
    lock: Lock = field(default_factory=Lock)


@dataclass(frozen=True, slots=True)
class IvfIndex:
    """An immutable approximate index of vectors by FAISS, which stores values in 8 bits.

    It groups similar vectors into `lists` inverted lists (IVF), of which a search scans the `probes` nearest.
    """

    index: Any  # faiss.IndexIVFScalarQuantizer
    rows: int
    lists: int
    probes: int  # lists that a search without a filter scans
    gpu: Gpu | None = None
    gpu_index: Any = None  # used if its results contain enough allowed rows

    def nearest(self, vector: Vectors, count: int, allowed: Mask | None) -> NDArray[np.intp]:
        """Returns the numbers of rows that probably include the `count` rows nearest to `vector`; the caller compares
        these rows exactly.

        The result has `count` to `RESCORING_FACTOR` times `count` rows, or fewer if fewer rows are allowed. `allowed`
        has a flag for each row; None allows all rows.
        """
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
        """Returns the allowed rows among the `count` nearest; none if `count` or `probes` exceeds the GPU's limits."""
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
    """Builds an approximate index (FAISS's inverted file, IVF) of `vectors`, (rows, dimensions), each of length 1.

    With a `gpu`, the index is also copied to the GPU. Building takes seconds for 100,000 rows.
    """
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
    """Returns how many lists a search has to scan to reach TARGET_RECALL, times PROBE_MARGIN.

    The number is found by doubling and bisection. It is at least MIN_PROBES and MIN_PROBED_SHARE of the lists, but at
    most all lists.
    """
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
    return min(ivf.lists, max(MIN_PROBES, ceil(MIN_PROBED_SHARE * ivf.lists), ceil(PROBE_MARGIN * high)))


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


def first_gpu(count_search: Callable[[str], None] = lambda device: None) -> Gpu | None:
    """Returns the first GPU, or None if there is none or this build of FAISS is for CPUs only.

    `count_search` is called once for each search of an index that is on the GPU, with the device that answered: "gpu"
    or "cpu".
    """
    if not faiss.get_num_gpus():
        return None
    untyped: Any = faiss
    return Gpu(partial(untyped.index_cpu_to_gpu, untyped.StandardGpuResources(), 0), count_search)


def use_one_thread() -> None:
    """Makes FAISS use a single thread for each search, because several searches run in threads at the same time."""
    faiss.omp_set_num_threads(1)
