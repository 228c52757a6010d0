"""Reads a collection of Milvus: on a server, in a cluster, or in a file of Milvus Lite."""

from collections.abc import Sequence
from typing import Any

from pointsman_retriever.domain import Vectors
from pointsman_retriever.external.stores import ExternalOptions, Hit, Layout, require_fields

try:
    from pymilvus import DataType, MilvusClient
except ImportError as error:
    raise ImportError("Milvus's client is not installed: pip install 'pointsman-retriever[milvus]'") from error


class MilvusCollection:
    """A collection of Milvus, read only and ranked by vectors only; implements ExternalStore."""

    def __init__(self, options: ExternalOptions) -> None:
        self._options = options
        self._client: Any = None
        self._vector, self._key, self._metric = "", "id", "COSINE"

    def read_layout(self) -> Layout:
        name, fields, seconds = self._options.name, self._options.fields, self._options.timeout_seconds
        if self._client is None:
            self._client = MilvusClient(uri=self._options.url, token=self._options.key, timeout=seconds)
        names = self._client.list_collections(timeout=seconds)
        if name not in names:
            raise LookupError(f"Milvus has no collection '{name}'; it has: {', '.join(names[:30]) or 'none'}")
        described = self._client.describe_collection(name, timeout=seconds)
        types = {field["name"]: field for field in described["fields"]}
        if not described.get("enable_dynamic_field"):
            require_fields(fields.read, list(types), f"collection '{name}'")
        vectors = [field for field, of in types.items() if of["type"] == DataType.FLOAT_VECTOR]
        if fields.vector and fields.vector not in vectors:
            raise LookupError(f"collection '{name}' has no vector '{fields.vector}'; it has: {', '.join(vectors)}")
        if not fields.vector and len(vectors) != 1:
            raise LookupError(f"collection '{name}' has the vectors {', '.join(vectors)}; name one as fields.vector")
        self._vector = fields.vector or vectors[0]
        self._key = next(field for field, of in types.items() if of.get("is_primary"))
        indexes = self._client.list_indexes(name, self._vector, timeout=seconds)
        if not indexes:
            raise LookupError(f"vector '{self._vector}' of collection '{name}' has no index")
        self._metric = self._client.describe_index(name, indexes[0], timeout=seconds)["metric_type"]
        rows = self._client.get_collection_stats(name, timeout=seconds)["row_count"]
        return Layout(int(types[self._vector]["params"]["dim"]), has_words=False, documents=int(rows))

    def by_meaning(self, vector: Vectors, count: int) -> Sequence[Hit]:
        (hits,) = self._client.search(
            self._options.name,
            [vector.tolist()],
            anns_field=self._vector,
            limit=count,
            output_fields=self._options.fields.read,
            timeout=self._options.timeout_seconds,
        )
        return [Hit(str(hit[self._key]), hit["entity"], self._cosine(hit["distance"])) for hit in hits]

    def _cosine(self, distance: float) -> float:
        """Converts the distance that Milvus reports for unit vectors to their cosine.

        With the metric L2 the distance is squared; with other metrics it is the cosine itself.
        """
        return 1 - distance / 2 if self._metric == "L2" else distance

    def by_words(self, text: str, count: int) -> Sequence[Hit]:
        return []

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
