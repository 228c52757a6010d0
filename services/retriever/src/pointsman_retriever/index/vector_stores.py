"""The vector store interface and the registry of its implementations.

To add a vector store, write a module with a factory and add one line to VECTOR_STORES. Without changing this package,
name a factory as `module:attribute` in POINTSMAN_RETRIEVER_VECTOR_STORE, or publish it as an entry point of the group
`pointsman.vector_stores`. An implementation must pass tests/retriever/test_conformance.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pointsman_retriever.domain import CollectionInfo, Ids, Vectors

GROUP = "pointsman.vector_stores"

VECTOR_STORES: Mapping[str, str] = {
    "faiss": "pointsman_retriever.index.faiss_index:FaissStore",
    "milvus": "pointsman_retriever.index.milvus:MilvusStore",
}


class VectorIndex(Protocol):
    """Interface of an immutable snapshot of a collection's vectors (of length 1, by chunk id), searched by inner
    product.

    `with_changes` makes the next snapshot, and the present one stays valid, so readers never wait for a writer. One
    thread at a time calls `with_changes`, and only on the latest snapshot, because snapshots may share storage. If a
    change cannot be committed, its snapshot is dropped, and the next change calls `with_changes` on the same snapshot
    again. FaissIndex and MilvusIndex implement this interface.
    """

    @property
    def count(self) -> int: ...

    @property
    def checksum(self) -> int:
        """Returns a checksum of all ids and vectors of this snapshot, as `digests.checksum_vectors` computes it."""

    def with_changes(self, removed: Ids, added: Ids, vectors: Vectors) -> "VectorIndex":
        """Returns the next snapshot, without the ids `removed` and with `added`.

        `added` is ascending, above all earlier ids; `vectors` (added, dimensions) has the vector of each. Unknown ids
        in `removed` are ignored.
        """

    def nearest(self, vector: Vectors, count: int, among: Ids | None) -> Ids:
        """Returns the ids of at most `count` vectors, nearest to `vector` first.

        Only ids in `among` are considered, unless it is None. An approximate index may miss some of the nearest.
        """

    def get(self, ids: Ids) -> Vectors:
        """Returns the vectors of these ids, in their order: (ids, dimensions). All ids must be in this snapshot."""

    @property
    def needs_compaction(self) -> bool:
        """Returns whether `compacted` would make searches notably faster or free much memory."""

    def compacted(self) -> "VectorIndex":
        """Returns a new index of the same vectors that is faster to search and shares no storage with the present
        index.

        Called only if `needs_compaction` is true, in any thread; may take seconds. Changes that are made to the
        collection during the call are then applied to the result by the caller, with `with_changes`.
        """

    def close(self) -> None:
        """Releases the external storage of all snapshots of the index; called when no snapshot is searched any more."""


class VectorStore(Protocol):
    """Interface for making the vector indexes of all collections; FaissStore and MilvusStore implement it."""

    def empty_index(self, collection: CollectionInfo) -> VectorIndex:
        """Returns a new index without vectors for a collection.

        While a collection's index is rebuilt, the old index is still searched, so the collection may have an index
        already.
        """

    def close(self) -> None:
        """Releases connections; called once, at shutdown."""


@dataclass(frozen=True, slots=True)
class VectorStoreOptions:
    """The settings that are passed to the factory of a vector store: address, token, names, and the folder for
    temporary files.

    `prefix` is the beginning of all names in the store, and `owner` is the id of the retriever's data folder.
    """

    url: str = ""
    token: str = ""
    prefix: str = "pointsman"  # starts all names that this retriever creates in the store
    owner: str = ""  # the id of the retriever's data folder, by which a store tells its collections from others'
    count_search: Callable[[str], None] = lambda device: None  # for stores on a GPU: called with "gpu" or "cpu"
    folder: Path | None = None  # for temporary files: the data folder


VectorStoreFactory = Callable[[VectorStoreOptions], VectorStore]
