"""Vectors in memory with FAISS: exact while they are few, then inverted lists with what is new beside them."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pointsman_retriever import digests
from pointsman_retriever.domain import Ids, Vectors
from pointsman_retriever.index.arena import AppendOnlyArray
from pointsman_retriever.index.sealed import CopyToGpu, IvfIndex, build_ivf_index

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class IndexThresholds:
    """When the index changes its shape; counts of vectors."""

    flat: int = 20_000  # up to here every vector is compared: 20,000 take 2 ms, and a list of them would be too short
    gathered: int = 1_000  # a filter that leaves so few is answered from them alone, exactly
    tail: float = 0.1  # of the sealed: so many new ones are compared one by one before the lists are made anew
    dead: float = 0.25  # of all: so many deleted ones are carried along


@dataclass(frozen=True, slots=True)
class FaissIndex:
    """The vectors as they are at one moment; `after` makes the next, and leaves this one to its readers.

    Rows are shared between the moments and only ever appended to; `alive` says which of them a moment has.
    """

    ids: AppendOnlyArray  # ascending
    vectors: AppendOnlyArray
    alive: Mask  # its length is the rows of this moment
    count: int
    checksum: int
    scale: IndexThresholds = IndexThresholds()
    mirror: CopyToGpu | None = None
    sealed: IvfIndex | None = None

    def after(self, removed: Ids, added: Ids, vectors: Vectors) -> "FaissIndex":
        """`added` are ascending, and greater than all before; for one thread, on the last moment only."""
        alive = np.concatenate((self.alive, np.ones(len(added), np.bool_)))
        rows = self._rows_of(removed)
        alive[rows] = False
        gone = digests.checksum_vectors(self._ids[rows], self._head[rows]) if len(rows) else 0
        if len(added):
            self.ids.append(len(self.alive), added)
            self.vectors.append(len(self.alive), vectors)
        return replace(
            self,
            alive=alive,
            count=self.count + len(added) - len(rows),
            checksum=self.checksum ^ gone ^ (digests.checksum_vectors(added, vectors) if len(added) else 0),
        )

    def nearest(self, vector: Vectors, count: int, among: Ids | None) -> Ids:
        """The ids of at most `count` vectors, the nearest first; of `among` only, where it is given."""
        allowed = self._rows_living if among is None else self._rows_among(among)
        left = self.count if allowed is None or among is None else int(np.count_nonzero(allowed))
        if min(count, left) == 0:
            return np.empty(0, np.int64)
        rows = self._candidates(vector, count, allowed, left)
        cosines = self._head[rows] @ vector
        best = np.lexsort((rows, -cosines))[:count]
        found: Ids = self._ids[rows[best]]
        return found

    def of(self, ids: Ids) -> Vectors:
        """(n, dimensions), the vectors with these ids, which must be there."""
        found: Vectors = self._head[np.searchsorted(self._ids, ids)]
        return found

    @property
    def wants_tidying(self) -> bool:
        rows = len(self.alive)
        if rows - self.count > max(self.scale.dead * rows, self.scale.flat / 4):
            return True
        sealed = self.sealed.rows if self.sealed else 0
        return self.count > self.scale.flat and rows - sealed > self.scale.tail * rows

    def tidied(self) -> "FaissIndex":
        """The same vectors without the deleted ones' rows, in lists where they are many; takes seconds."""
        rows = np.flatnonzero(self.alive)
        ids, vectors = AppendOnlyArray(np.int64), AppendOnlyArray(np.float32, self._head.shape[1])
        ids.append(0, self._ids[rows])
        for start in range(0, len(rows), 4096):  # a short hold of the interpreter each
            vectors.append(start, self._head[rows[start : start + 4096]])
        sealed = build_ivf_index(vectors.first(len(rows)), self.mirror) if self.count > self.scale.flat else None
        return replace(self, ids=ids, vectors=vectors, alive=np.ones(len(rows), np.bool_), sealed=sealed)

    def close(self) -> None:
        """Memory frees itself."""

    @property
    def _ids(self) -> Ids:
        return self.ids.first(len(self.alive))

    @property
    def _head(self) -> Vectors:
        return self.vectors.first(len(self.alive))

    def _rows_of(self, ids: Ids) -> NDArray[np.intp]:
        """Of those that are there."""
        rows = np.searchsorted(self._ids, ids)
        rows = rows[rows < len(self.alive)]
        there = np.isin(self._ids[rows], ids)
        return rows[there & self.alive[rows]]

    @property
    def _rows_living(self) -> Mask | None:
        """None where all are: that is the quickest to search."""
        return None if self.count == len(self.alive) else self.alive

    def _rows_among(self, among: Ids) -> Mask:
        """`among` as a mask over the rows: by a table over the ids' range, which is quicker than to search for each."""
        ids = self._ids
        if not len(ids) or not len(among):
            return np.zeros(len(ids), np.bool_)
        first = ids[0]
        table = np.zeros(int(ids[-1] - first) + 1, np.bool_)
        table[among[(among >= first) & (among <= ids[-1])] - first] = True
        mask: Mask = table[ids - first]
        mask &= self.alive
        return mask

    def _candidates(self, vector: Vectors, count: int, allowed: Mask | None, left: int) -> NDArray[np.intp]:
        """Rows among which the nearest are; all that are allowed, where these are few."""
        if left <= max(count, self.scale.gathered):
            return np.arange(left) if allowed is None else np.flatnonzero(allowed)
        if self.sealed is None:
            return self._nearest_rows(vector, count, allowed, 0)
        rows = self.sealed.rows
        sealed = self.sealed.nearest(vector, count, None if allowed is None else allowed[:rows])
        if rows == len(self.alive):
            return sealed
        return np.concatenate((sealed, self._nearest_rows(vector, count, allowed, rows)))

    def _nearest_rows(self, vector: Vectors, count: int, allowed: Mask | None, start: int) -> NDArray[np.intp]:
        """Exactly, from row `start` on, which is there."""
        cosines = self._head[start:] @ vector
        if allowed is not None:
            cosines[~allowed[start:]] = -np.inf
        best = np.argpartition(cosines, -min(count, len(cosines)))[-count:]
        found: NDArray[np.intp] = best[np.isfinite(cosines[best])] + start
        return found


def empty_faiss_index(
    dimensions: int, scale: IndexThresholds = IndexThresholds(), mirror: CopyToGpu | None = None
) -> FaissIndex:
    return FaissIndex(
        AppendOnlyArray(np.int64),
        AppendOnlyArray(np.float32, dimensions),
        np.empty(0, np.bool_),
        0,
        0,
        scale=scale,
        mirror=mirror,
    )
