"""The default vector store. A search compares the query with all vectors while there are few, and uses an approximate
FAISS index (IVF) when there are many.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pointsman_retriever import digests
from pointsman_retriever.domain import CollectionInfo, Ids, Vectors
from pointsman_retriever.index.append_only_array import AppendOnlyArray
from pointsman_retriever.index.ivf_index import Gpu, IvfIndex, Mask, build_ivf_index, first_gpu, use_one_thread
from pointsman_retriever.index.vector_stores import VectorStoreOptions


@dataclass(frozen=True, slots=True)
class IndexThresholds:
    """Limits that decide how a search compares vectors, and when the index is rebuilt.

    Up to `max_flat` vectors, and up to `max_exact_filtered` vectors that pass a filter, a search compares all of them;
    above, it uses an approximate (IVF) index. A rebuild is due if the share of rows that the IVF index lacks exceeds
    `max_unindexed_share`, or the share of deleted rows exceeds `max_deleted_share` and their number a quarter of
    `max_flat`. Shares are of all rows, 0 to 1.
    """

    max_flat: int = 20_000  # vectors; up to here all are compared, which takes 2 ms, and lists would be too short
    max_exact_filtered: int = 1_000  # if a filter leaves at most so many vectors, they are compared exactly
    max_unindexed_share: float = 0.1  # of all rows: new vectors that are compared one by one until the IVF is rebuilt
    max_deleted_share: float = 0.25  # of all rows


@dataclass(frozen=True, slots=True)
class FaissIndex:
    """An immutable snapshot of a collection's vectors in memory; implements VectorIndex.

    Snapshots share arrays to which rows are only appended. `alive` has a flag for each row: whether it belongs to this
    snapshot. `ivf` is the approximate index of the first rows; if it is None, a search compares all vectors.
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
        """Returns the next snapshot, without the ids `removed` and with `added`, whose vectors are `vectors`.

        Called by one thread at a time, on the latest snapshot only. `added` is ascending, above all earlier ids;
        unknown ids in `removed` are ignored.
        """
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
        """Returns the ids of at most `count` vectors, nearest to `vector` first.

        Only ids in `among` are considered, unless it is None. With an IVF index some of the nearest may be missed.
        """
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
        """Returns the vectors of these ids, in their order: (ids, dimensions). All ids must be in this snapshot."""
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
        """Returns an index of the same vectors without deleted rows; takes seconds for a large one.

        The new index is approximate (IVF) if there are more than `thresholds.max_flat` vectors.
        """
        rows = np.flatnonzero(self.alive)
        ids = AppendOnlyArray(np.int64)
        vectors = AppendOnlyArray(np.float32, self._vectors.shape[1], self.vectors.folder)
        ids.append(0, self._ids[rows])
        for start in range(0, len(rows), 4096):  # in blocks, each of which holds the GIL for a short time only
            vectors.append(start, self._vectors[rows[start : start + 4096]])
        is_large = self.count > self.thresholds.max_flat
        ivf = build_ivf_index(vectors.first(len(rows)), self.gpu) if is_large else None
        return replace(self, ids=ids, vectors=vectors, alive=np.ones(len(rows), np.bool_), ivf=ivf)

    def close(self) -> None:
        """Does nothing: memory is freed with the last reference."""

    @property
    def _ids(self) -> Ids:
        return self.ids.first(len(self.alive))

    @property
    def _vectors(self) -> Vectors:
        return self.vectors.first(len(self.alive))

    def _find_rows(self, ids: Ids) -> NDArray[np.intp]:
        """Returns the rows with these ids that are not deleted; ignores ids without such a row."""
        stored = self._ids
        if not len(stored):
            return np.empty(0, np.intp)
        rows = np.minimum(np.searchsorted(stored, ids), len(stored) - 1)
        found: NDArray[np.intp] = rows[(stored[rows] == ids) & self.alive[rows]]
        return found

    @property
    def _live_mask(self) -> Mask | None:
        """Returns a mask of the rows that are not deleted; None if none is deleted, since this is faster to search."""
        return None if self.count == len(self.alive) else self.alive

    def _mask_of(self, among: Ids) -> Mask:
        """Returns a mask of the rows that are not deleted and whose id is in `among`."""
        # A table with an entry for each id from the first to the last is faster than a search for each id.
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
        """Returns allowed rows that contain the `count` nearest to the vector; with an IVF index some may be missing.

        If few rows are allowed, all of them are returned.
        """
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
        """Returns the allowed rows from `start` on that are nearest to the vector, at most `count`, in any order."""
        cosines = self._vectors[start:] @ vector
        if allowed is not None:
            cosines[~allowed[start:]] = -np.inf
        best = np.argpartition(cosines, -min(count, len(cosines)))[-count:]
        found: NDArray[np.intp] = best[np.isfinite(cosines[best])] + start
        return found


def empty_faiss_index(
    dimensions: int,
    thresholds: IndexThresholds = IndexThresholds(),
    gpu: Gpu | None = None,
    folder: Path | None = None,
) -> FaissIndex:
    """Returns an index without vectors.

    With `folder`, the vectors are moved to a temporary file in this folder once they have `MIN_FILE_BYTES` bytes.
    Before, or if `folder` is None, they are in memory. If `gpu` is None, the index is on the CPU only.
    """
    ids, vectors = AppendOnlyArray(np.int64), AppendOnlyArray(np.float32, dimensions, folder)
    return FaissIndex(ids, vectors, np.empty(0, np.bool_), 0, 0, thresholds=thresholds, gpu=gpu)


class FaissStore:
    """Makes indexes in this process; implements VectorStore.

    IVF indexes are also on the first GPU, if this build of FAISS finds one. The exact vectors of a large collection are
    in a temporary file in the options' `folder`, if that is set.
    """

    def __init__(self, options: VectorStoreOptions | None = None) -> None:
        use_one_thread()
        self._options = options or VectorStoreOptions()
        self._gpu = first_gpu(self._options.count_search)

    def empty_index(self, collection: CollectionInfo) -> FaissIndex:
        return empty_faiss_index(collection.dimensions, gpu=self._gpu, folder=self._options.folder)

    def close(self) -> None:
        """Does nothing: the store has no connections."""
