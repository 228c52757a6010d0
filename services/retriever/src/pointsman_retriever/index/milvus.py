"""A vector store in Milvus: a server or cluster, or Milvus Lite in a file, depending on the address.

Milvus holds a copy of a collection's vectors, which is filled from the collection's file at start and dropped at
shutdown. The name of the copy contains the id of the data folder, so that retrievers with the same prefix do not touch
each other's copies. Milvus has no immutable snapshots, so each snapshot filters its searches: it hides ids above its
last one, and the ids that its last change removed.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from secrets import token_hex
from typing import Any, Protocol

import numpy as np

from pointsman_retriever import digests
from pointsman_retriever.domain import CollectionInfo, Ids, Vectors
from pointsman_retriever.index.vector_stores import VectorStoreOptions

try:
    from pymilvus import DataType, MilvusClient
except ImportError as error:
    raise ImportError("Milvus's client is not installed: pip install 'pointsman-retriever[milvus]'") from error

log = logging.getLogger(__name__)

ROWS_PER_CALL = 1_000
MAX_HITS = 16_384  # Milvus's limit for one search


class Client(Protocol):
    """Interface with the methods of pymilvus's MilvusClient that MilvusIndex and MilvusStore call."""

    def upsert(self, collection_name: str, data: list[dict[str, Any]]) -> Any: ...

    def delete(self, collection_name: str, *, ids: list[int]) -> Any: ...

    def search(self, collection_name: str, data: list[list[float]], **options: Any) -> Any: ...

    def query(self, collection_name: str, **options: Any) -> Any: ...

    def drop_collection(self, collection_name: str) -> Any: ...


@dataclass(frozen=True, slots=True)
class MilvusIndex:
    """A snapshot of a collection's vectors, of which Milvus holds a copy; implements VectorIndex.

    Its searches ignore ids above `last`, and the ids in `leaving`, which the last change has removed.
    """

    client: Client
    name: str  # of the collection in Milvus
    dimensions: int
    count: int = 0
    checksum: int = 0
    last: int = 0  # greatest id of this snapshot; greater ids belong to a change that is not committed
    leaving: tuple[int, ...] = ()  # removed by the last change; deleted in Milvus once the next change confirms it

    def with_changes(self, removed: Ids, added: Ids, vectors: Vectors) -> "MilvusIndex":
        """Returns the next snapshot, without the ids `removed` and with `added`, whose vectors are `vectors`.

        Called by one thread at a time, on the latest snapshot only. `added` is ascending, above all earlier ids.
        """
        if self.leaving:
            self.client.delete(self.name, ids=list(self.leaving))
        stored = self._query(removed)
        gone = np.array(sorted(stored), np.int64)
        for start in range(0, len(added), ROWS_PER_CALL):
            rows = zip(added[start : start + ROWS_PER_CALL], vectors[start : start + ROWS_PER_CALL], strict=True)
            self.client.upsert(self.name, [{"id": int(chunk), "vector": vector.tolist()} for chunk, vector in rows])
        return replace(
            self,
            count=self.count + len(added) - len(gone),
            checksum=self.checksum ^ _checksum(gone, self._stack(gone, stored)) ^ _checksum(added, vectors),
            last=int(added[-1]) if len(added) else self.last,
            leaving=tuple(gone.tolist()),
        )

    def nearest(self, vector: Vectors, count: int, among: Ids | None) -> Ids:
        """Returns the ids of the nearest vectors, nearest first: at most `count`, and at most `MAX_HITS`.

        Only ids in `among` are considered, unless it is None. Milvus may miss some of the nearest.
        """
        count = min(count, self.count if among is None else len(among), MAX_HITS)
        if count == 0:
            return np.empty(0, np.int64)
        conditions = [f"id <= {self.last}"]
        if self.leaving:
            conditions.append(f"id not in {list(self.leaving)}")
        if among is not None:
            conditions.append(f"id in {among.tolist()}")
        (hits,) = self.client.search(
            self.name,
            [vector.tolist()],
            limit=count,
            filter=" and ".join(conditions),
            output_fields=["id"],
            consistency_level="Strong",
        )
        return np.array([hit["id"] for hit in hits], np.int64)

    def get(self, ids: Ids) -> Vectors:
        """Returns the vectors of these ids, in their order: (ids, dimensions). All ids must be in this snapshot."""
        return self._stack(ids, self._query(ids))

    @property
    def needs_compaction(self) -> bool:
        return False  # Milvus compacts its data itself

    def compacted(self) -> "MilvusIndex":
        return self

    def close(self) -> None:
        self.client.drop_collection(self.name)

    def _query(self, ids: Ids) -> Mapping[int, Vectors]:
        """Returns the vectors of those of the ids that are in this snapshot, by id."""
        visible = [chunk for chunk in ids.tolist() if chunk <= self.last and chunk not in self.leaving]
        found: dict[int, Vectors] = {}
        for start in range(0, len(visible), ROWS_PER_CALL):
            rows = self.client.query(
                self.name,
                filter=f"id in {visible[start : start + ROWS_PER_CALL]}",
                output_fields=["id", "vector"],
                consistency_level="Strong",
            )
            found.update({row["id"]: np.array(row["vector"], np.float32) for row in rows})
        return found

    def _stack(self, ids: Ids, stored: Mapping[int, Vectors]) -> Vectors:
        if not len(ids):
            return np.empty((0, self.dimensions), np.float32)
        return np.stack([stored[chunk] for chunk in ids.tolist()])


class MilvusStore:
    """Keeps vectors in Milvus; implements VectorStore.

    When it is created, it drops the collections in Milvus that a killed process with the same data folder has left.
    """

    def __init__(self, options: VectorStoreOptions) -> None:
        self._client = MilvusClient(uri=options.url, token=options.token)
        self._own = f"{options.prefix}_{options.owner}_"
        self._drop_abandoned(options.prefix)

    def empty_index(self, collection: CollectionInfo) -> MilvusIndex:
        # The random suffix lets two indexes of a collection coexist while it is rebuilt.
        name = f"{self._own}{collection.tenant}_{collection.name}_{token_hex(4)}".replace("-", "_")
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=collection.dimensions)
        indexes = MilvusClient.prepare_index_params()
        indexes.add_index("vector", index_type="AUTOINDEX", metric_type="IP")
        self._client.create_collection(name, schema=schema, index_params=indexes, consistency_level="Strong")
        self._client.load_collection(name)
        return MilvusIndex(self._client, name, collection.dimensions)

    def close(self) -> None:
        self._client.close()

    def _drop_abandoned(self, prefix: str) -> None:
        """Drops Milvus's collections that a killed process with the same data folder has left.

        Logs a warning if there are collections of other retrievers with the same prefix.
        """
        present = [name for name in self._client.list_collections() if name.startswith(f"{prefix}_")]
        others = [name for name in present if not name.startswith(self._own)]
        for name in set(present).difference(others):
            self._client.drop_collection(name)
        if others:
            log.warning(
                "%d collections in Milvus begin with %s_ and belong to other retrievers (such as %s): they are left "
                "alone; drop them in Milvus if their retriever no longer exists",
                *(len(others), prefix, min(others)),
            )


def _checksum(ids: Ids, vectors: Vectors) -> int:
    return digests.checksum_vectors(ids, vectors) if len(ids) else 0
