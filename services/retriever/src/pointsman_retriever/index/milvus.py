"""Vectors in Milvus: Milvus Lite in a file, or a cluster, by its address alone.

What Milvus holds is a copy: it is filled from the collection's file at start and dropped at the end. It cannot keep a
moment as FaissIndex does, so a moment leaves out what it must not show: ids above its last, and those just removed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from secrets import token_hex
from typing import Any, Protocol

import numpy as np
from pymilvus import DataType, MilvusClient

from pointsman_retriever import digests
from pointsman_retriever.domain import CollectionInfo, Ids, Vectors

ROWS_PER_CALL = 1_000  # in one call
MAX_HITS = 16_384  # of a search, by Milvus


class Client(Protocol):
    """What is used of MilvusClient."""

    def upsert(self, collection_name: str, data: list[dict[str, Any]]) -> Any: ...

    def delete(self, collection_name: str, *, ids: list[int]) -> Any: ...

    def search(self, collection_name: str, data: list[list[float]], **how: Any) -> Any: ...

    def query(self, collection_name: str, **how: Any) -> Any: ...

    def drop_collection(self, collection_name: str) -> Any: ...


@dataclass(frozen=True, slots=True)
class MilvusIndex:
    client: Client
    name: str  # of the collection in Milvus
    dimensions: int
    count: int = 0
    checksum: int = 0
    last: int = 0  # the greatest id; greater ones are of a change that is not committed
    leaving: tuple[int, ...] = ()  # removed by the last change, and in Milvus until the next one shows it was committed

    def after(self, removed: Ids, added: Ids, vectors: Vectors) -> "MilvusIndex":
        """`added` are ascending, and greater than all before; for one thread."""
        if self.leaving:
            self.client.delete(self.name, ids=list(self.leaving))
        held = self._held(removed)
        gone = np.array(sorted(held), np.int64)
        for start in range(0, len(added), ROWS_PER_CALL):
            rows = zip(added[start : start + ROWS_PER_CALL], vectors[start : start + ROWS_PER_CALL], strict=True)
            self.client.upsert(self.name, [{"id": int(chunk), "vector": vector.tolist()} for chunk, vector in rows])
        return replace(
            self,
            count=self.count + len(added) - len(gone),
            checksum=self.checksum ^ _checksum(gone, self._of(gone, held)) ^ _checksum(added, vectors),
            last=int(added[-1]) if len(added) else self.last,
            leaving=tuple(gone.tolist()),
        )

    def nearest(self, vector: Vectors, count: int, among: Ids | None) -> Ids:
        """The ids of at most `count` vectors, the nearest first; of `among` only, where it is given."""
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

    def of(self, ids: Ids) -> Vectors:
        """(n, dimensions), the vectors with these ids, which must be there."""
        return self._of(ids, self._held(ids))

    @property
    def wants_tidying(self) -> bool:
        return False  # Milvus tidies itself

    def tidied(self) -> "MilvusIndex":
        return self

    def close(self) -> None:
        self.client.drop_collection(self.name)

    def _held(self, ids: Ids) -> Mapping[int, Vectors]:
        left = [chunk for chunk in ids.tolist() if chunk <= self.last and chunk not in self.leaving]
        found: dict[int, Vectors] = {}
        for start in range(0, len(left), ROWS_PER_CALL):
            rows = self.client.query(
                self.name,
                filter=f"id in {left[start : start + ROWS_PER_CALL]}",
                output_fields=["id", "vector"],
                consistency_level="Strong",
            )
            found.update({row["id"]: np.array(row["vector"], np.float32) for row in rows})
        return found

    def _of(self, ids: Ids, held: Mapping[int, Vectors]) -> Vectors:
        if not len(ids):
            return np.empty((0, self.dimensions), np.float32)
        return np.stack([held[chunk] for chunk in ids.tolist()])


class MilvusStore:
    """A server, or a file of Milvus Lite's."""

    def __init__(self, uri: str, token: str, prefix: str) -> None:
        """`prefix` begins the names of all that this retriever makes there, and nothing else: it drops them."""
        self._client = MilvusClient(uri=uri, token=token)
        self._prefix = prefix
        for name in self._client.list_collections():
            if name.startswith(f"{prefix}_"):
                self._client.drop_collection(name)

    def empty(self, collection: CollectionInfo) -> MilvusIndex:
        # Several may stand beside each other while a collection is filled anew.
        name = f"{self._prefix}_{collection.tenant}_{collection.name}_{token_hex(4)}".replace("-", "_")
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


def _checksum(ids: Ids, vectors: Vectors) -> int:
    return digests.checksum_vectors(ids, vectors) if len(ids) else 0
