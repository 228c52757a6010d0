"""A vector store that compares a query with every vector, in NumPy."""

from dataclasses import dataclass

import numpy as np
from pointsman_retriever.digests import checksum_vectors
from pointsman_retriever.domain import CollectionInfo, Ids, Vectors
from pointsman_retriever.index.vector_stores import VectorStoreOptions


@dataclass(frozen=True)
class NumpyIndex:
    ids: Ids  # ascending
    vectors: Vectors
    needs_compaction = False

    @property
    def count(self) -> int:
        return len(self.ids)

    @property
    def checksum(self) -> int:
        return checksum_vectors(self.ids, self.vectors)

    def with_changes(self, removed: Ids, added: Ids, vectors: Vectors) -> "NumpyIndex":
        kept = ~np.isin(self.ids, removed)
        return NumpyIndex(
            np.concatenate([self.ids[kept], added]), np.concatenate([self.vectors[kept], vectors], dtype=np.float32)
        )

    def nearest(self, vector: Vectors, count: int, among: Ids | None) -> Ids:
        allowed = np.arange(self.count) if among is None else np.flatnonzero(np.isin(self.ids, among))
        order = np.argsort(-(self.vectors[allowed] @ vector), kind="stable")[:count]
        found: Ids = self.ids[allowed[order]]
        return found

    def get(self, ids: Ids) -> Vectors:
        found: Vectors = self.vectors[np.searchsorted(self.ids, ids)]
        return found

    def compacted(self) -> "NumpyIndex":
        return NumpyIndex(self.ids.copy(), self.vectors.copy())

    def close(self) -> None:
        pass


class NumpyStore:
    def __init__(self, options: VectorStoreOptions) -> None:
        pass

    def empty_index(self, collection: CollectionInfo) -> NumpyIndex:
        return NumpyIndex(np.empty(0, np.int64), np.empty((0, collection.dimensions), np.float32))

    def close(self) -> None:
        pass
