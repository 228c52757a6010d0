"""Vectors in memory with FAISS: exact inner products, which for unit vectors are cosines."""

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np

from pointsman_retriever.domain import Ids, Vectors

Mirror = Callable[[Any], Any]


class FaissIndex:
    """Not safe to change while it is searched: see Shelf.

    FAISS on a GPU can neither remove nor restrict a search, so the index lives in the CPU's memory, and `mirror` copies
    it to where unrestricted searches run, on the first search after a change.
    """

    def __init__(self, dimensions: int, mirror: Mirror | None = None) -> None:
        self._index = faiss.IndexIDMap2(faiss.IndexFlatIP(dimensions))
        self._mirror = mirror
        self._mirrored: Any = None

    def put(self, ids: Ids, vectors: Vectors) -> None:
        """(n,), (n, dimensions); the ids must be new."""
        if len(ids):
            self._mirrored = None
            self._index.add_with_ids(np.ascontiguousarray(vectors, np.float32), ids)

    def remove(self, ids: Ids) -> None:
        """Ids that are not there are passed over."""
        if len(ids):
            self._mirrored = None
            self._index.remove_ids(faiss.IDSelectorBatch(ids))

    def nearest(self, vector: Vectors, count: int, among: Ids | None) -> Ids:
        """The ids of at most `count` vectors, the nearest first; of `among` only, where it is given."""
        count = min(count, self._index.ntotal if among is None else len(among))
        if count == 0:
            return np.empty(0, np.int64)
        rows = vector.reshape(1, -1)
        if among is None:
            _, ids = self._unrestricted().search(rows, count)
        else:
            selector = faiss.IDSelectorBatch(among)  # the parameters hold its address, not its life
            chosen = faiss.SearchParameters()
            chosen.sel = selector
            _, ids = self._index.search(rows, count, params=chosen)
        found: Ids = ids[0]
        return found[found >= 0]

    def similarities(self, vector: Vectors, ids: Ids) -> Vectors:
        """(n,), the cosines of the vectors with these ids, which must be there."""
        if not len(ids):
            return np.empty(0, np.float32)
        cosines: Vectors = self._index.reconstruct_batch(ids) @ vector
        return np.clip(cosines, -1.0, 1.0)

    def _unrestricted(self) -> Any:
        if self._mirror is None:
            return self._index
        if self._mirrored is None:
            self._mirrored = self._mirror(self._index)
        return self._mirrored


def gpu_mirror() -> Mirror | None:
    """A copier to all GPUs that this build of FAISS sees, if it sees any."""
    if faiss.get_num_gpus() == 0:
        return None
    mirror: Mirror = faiss.index_cpu_to_all_gpus
    return mirror
