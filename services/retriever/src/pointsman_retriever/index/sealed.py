"""Many vectors in FAISS's inverted lists, a byte a value; how many lists a search visits is measured, not guessed."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pointsman_retriever.domain import Vectors

CopyToGpu = Callable[[Any], Any]

LISTS_PER_ROOT_ROW = 4  # times the root of the rows: to find the lists takes about as long as to go through them
TRAINING_ROWS_PER_LIST = 40  # for each list
KMEANS_ITERATIONS = 8  # of k-means; more change the recall by less than its noise
CALIBRATION_QUERIES = 200  # vectors by which the number of lists to visit is chosen
TARGET_RECALL = 0.99  # of the ten nearest, over the sample
MIN_PROBES = 8  # lists, whatever the sample says
PROBE_MARGIN = (
    1.5  # so many times the lists that this takes: a query is less like the vectors than they are like each other
)
CALIBRATION_NEAREST = 10
RESCORING_FACTOR = (
    3  # so many times the vectors asked for are compared again in full: a byte a value misplaces neighbours
)
SEED = 1


@dataclass(frozen=True, slots=True)
class IvfIndex:
    """Never changed. FAISS on a GPU cannot restrict a search, so `mirrored` takes those that hit few deleted rows."""

    index: Any
    rows: int
    lists: int
    visited: int  # lists, of a search without a filter
    mirrored: Any = None

    def nearest(self, vector: Vectors, count: int, allowed: NDArray[np.bool_] | None) -> NDArray[np.intp]:
        """Rows, about the nearest; at least `count` where so many are allowed. None: all are."""
        left = self.rows if allowed is None else int(np.count_nonzero(allowed))
        wanted = min(RESCORING_FACTOR * count, left)
        if wanted == 0:
            return np.empty(0, np.intp)
        if self.mirrored is not None:
            found = self._search(self.mirrored, vector, wanted, None, self.visited)
            found = found if allowed is None else found[allowed[found]]
            if len(found) >= count:
                return found
        packed = None if allowed is None else np.packbits(allowed, bitorder="little")
        visited = min(self.lists, ceil(self.visited * self.rows / left))
        found = self._search(self.index, vector, wanted, packed, visited)
        if len(found) < min(count, left) and visited < self.lists:
            found = self._search(self.index, vector, wanted, packed, self.lists)
        return found

    def _search(
        self, index: Any, vector: Vectors, count: int, allowed: NDArray[np.uint8] | None, visited: int
    ) -> NDArray[np.intp]:
        _, rows = index.search(vector.reshape(1, -1), count, params=_search_parameters(visited, allowed))
        found: NDArray[np.intp] = rows[0]
        return found[found >= 0]


def build_ivf_index(vectors: Vectors, mirror: CopyToGpu | None) -> IvfIndex:
    """`vectors` are (rows, dimensions), of unit length; takes seconds for 100,000."""
    rows, dimensions = vectors.shape
    lists = max(1, round(LISTS_PER_ROOT_ROW * sqrt(rows)))
    known: Any = faiss  # its declared types are of the C++ side, and do not know all that Python may leave out
    index = known.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(dimensions),
        dimensions,
        lists,
        faiss.ScalarQuantizer.QT_8bit_uniform,  # one range for all values, which is the quickest to compare
        faiss.METRIC_INNER_PRODUCT,
        False,  # the values themselves, not what they differ from their list's centre by
    )
    index.cp.niter, index.cp.seed, index.cp.spherical = KMEANS_ITERATIONS, SEED, True
    index.cp.min_points_per_centroid = 1  # else it warns on stderr where a test has made the flat size small
    random = np.random.default_rng(SEED)
    index.train(vectors[random.permutation(rows)[: TRAINING_ROWS_PER_LIST * lists]])
    index.add(vectors)
    sealed = IvfIndex(index, rows, lists, lists, mirror(index) if mirror else None)
    return _calibrate_probes(sealed, vectors, random)


def _calibrate_probes(sealed: IvfIndex, vectors: Vectors, random: np.random.Generator) -> IvfIndex:
    """The fewest, by doubling and halving the step between, that find enough of what a full comparison finds."""
    sample = vectors[random.permutation(sealed.rows)[:CALIBRATION_QUERIES]]
    truth = _exact_nearest(vectors, sample, CALIBRATION_NEAREST + 1)
    low, high = 0, 1
    while high < sealed.lists and _measure_recall(sealed, sample, truth, high) < TARGET_RECALL:
        low, high = high, 2 * high
    high = min(high, sealed.lists)
    while high - low > max(1, high // 8):
        middle = (low + high) // 2
        if _measure_recall(sealed, sample, truth, middle) < TARGET_RECALL:
            low = middle
        else:
            high = middle
    return IvfIndex(
        sealed.index,
        sealed.rows,
        sealed.lists,
        min(sealed.lists, max(MIN_PROBES, ceil(PROBE_MARGIN * high))),
        sealed.mirrored,
    )


def _exact_nearest(vectors: Vectors, sample: Vectors, count: int) -> NDArray[np.intp]:
    _, rows = faiss.knn(sample, vectors, count, metric=faiss.METRIC_INNER_PRODUCT)
    found: NDArray[np.intp] = rows
    return found


def _measure_recall(sealed: IvfIndex, sample: Vectors, truth: NDArray[np.intp], visited: int) -> float:
    # A vector is its own nearest, and found whatever is visited: the one more that is asked for.
    _, found = sealed.index.search(
        sample, RESCORING_FACTOR * (CALIBRATION_NEAREST + 1), params=_search_parameters(visited)
    )
    hits = sum(len(np.intersect1d(one, true)) for one, true in zip(found, truth, strict=True))
    return (hits - len(sample)) / (CALIBRATION_NEAREST * len(sample))


def _search_parameters(lists: int, allowed: NDArray[np.uint8] | None = None) -> Any:
    known: Any = faiss
    if allowed is None:
        return known.SearchParametersIVF(nprobe=lists)
    return known.SearchParametersIVF(sel=known.IDSelectorBitmap(allowed), nprobe=lists)


def find_gpu_copier() -> CopyToGpu | None:
    """A copier to all GPUs that this build of FAISS sees, if it sees any."""
    if faiss.get_num_gpus() == 0:
        return None
    mirror: CopyToGpu = faiss.index_cpu_to_all_gpus
    return mirror
