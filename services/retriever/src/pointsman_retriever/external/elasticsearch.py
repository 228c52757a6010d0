"""Reads an index of Elasticsearch or OpenSearch, by vectors and by words (BM25)."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pointsman_retriever.domain import Vectors
from pointsman_retriever.external.stores import ExternalOptions, Hit, Layout, require_fields

CANDIDATES_PER_HIT = 2
"""Number of candidates that the approximate search of each shard considers, for each requested hit."""


class _Index:
    """The code that ElasticsearchIndex and OpensearchIndex share: reading mappings, searching by words, converting
    hits.
    """

    def __init__(self, options: ExternalOptions, client: Any, missing: type[Exception]) -> None:
        self._options, self._client, self._missing = options, client, missing
        self._vector, self._similarity = options.fields.vector or "", "cosine"

    def read_layout(self) -> Layout:
        name, wanted = self._options.name, self._options.fields.vector
        try:
            mappings = self._client.indices.get_mapping(index=name)
        except self._missing as error:
            raise LookupError(f"there is no index '{name}'") from error
        properties = next(iter(dict(mappings).values()))["mappings"].get("properties", {})
        require_fields([*self._options.fields.read, *([wanted] if wanted else [])], list(properties), f"index '{name}'")
        vectors = [field for field, of in properties.items() if of.get("type") in ("dense_vector", "knn_vector")]
        if wanted and wanted not in vectors:
            raise LookupError(f"field '{wanted}' of index '{name}' is {properties[wanted].get('type')}, not a vector")
        if not wanted and len(vectors) > 1:
            raise LookupError(f"index '{name}' has the vectors {', '.join(vectors)}; name one as fields.vector")
        self._vector = wanted or "".join(vectors)
        of = properties.get(self._vector, {})
        self._similarity = _similarity(of)
        documents = self._client.count(index=name)["count"]
        dimensions = of.get("dims") or of.get("dimension") or 0
        return Layout(int(dimensions), has_words=True, documents=int(documents))

    def by_words(self, text: str, count: int) -> Sequence[Hit]:
        query = {"match": {self._options.fields.text: {"query": text}}}
        return self._hits({"query": query, "size": count}, lambda score: score)

    def _hits(self, body: Mapping[str, Any], convert: Callable[[float], float]) -> list[Hit]:
        found = self._client.search(
            index=self._options.name, **self._arguments({**body, "_source": self._options.fields.read})
        )
        return [Hit(hit["_id"], _flat(hit["_source"]), convert(hit["_score"])) for hit in found["hits"]["hits"]]

    def _arguments(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"body": body}

    def _cosine(self, score: float) -> float:
        """Converts the score of unit vectors to their cosine.

        If the index compares by L2, the score is 1 / (1 + distance^2). Any other score is taken for (1 + cosine) / 2,
        as both products document it for a comparison by cosine.
        """
        return 1 - (1 / score - 1) / 2 if self._similarity == "l2" else 2 * score - 1

    def close(self) -> None:
        self._client.close()


class ElasticsearchIndex(_Index):
    """An index of Elasticsearch; implements ExternalStore."""

    def __init__(self, options: ExternalOptions) -> None:
        try:
            from elastic_transport.client_utils import DEFAULT
            from elasticsearch import Elasticsearch, NotFoundError
        except ImportError as error:
            message = "Elasticsearch's client is not installed: pip install 'pointsman-retriever[elasticsearch]'"
            raise ImportError(message) from error
        # The other clients read OpenSSL's variable themselves.
        authority = os.environ.get("SSL_CERT_FILE") if options.url.startswith("https:") else None
        client = Elasticsearch(
            options.url,
            api_key=options.key or None,
            request_timeout=options.timeout_seconds,
            max_retries=0,
            ca_certs=authority or DEFAULT,
        )
        super().__init__(options, client, NotFoundError)

    def by_meaning(self, vector: Vectors, count: int) -> Sequence[Hit]:
        knn = {
            "field": self._vector,
            "query_vector": vector.tolist(),
            "k": count,
            "num_candidates": CANDIDATES_PER_HIT * count,
        }
        return self._hits({"knn": knn, "size": count}, self._cosine)

    def _arguments(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"source" if key == "_source" else key: value for key, value in body.items()}


class OpensearchIndex(_Index):
    """An index of OpenSearch; implements ExternalStore. The key in its options is USER:PASSWORD."""

    def __init__(self, options: ExternalOptions) -> None:
        try:
            from opensearchpy import NotFoundError, OpenSearch
        except ImportError as error:
            message = "OpenSearch's client is not installed: pip install 'pointsman-retriever[opensearch]'"
            raise ImportError(message) from error
        login = tuple(options.key.split(":", 1)) if options.key else None
        client = OpenSearch(options.url, http_auth=login, timeout=options.timeout_seconds, max_retries=0)
        super().__init__(options, client, NotFoundError)

    def by_meaning(self, vector: Vectors, count: int) -> Sequence[Hit]:
        query = {"knn": {self._vector: {"vector": vector.tolist(), "k": count}}}
        return self._hits({"query": query, "size": count}, self._cosine)


def _similarity(mapping: Mapping[str, Any]) -> str:
    stated = mapping.get("similarity") or mapping.get("space_type") or mapping.get("method", {}).get("space_type")
    return "l2" if stated in ("l2", "l2_norm") else "cosine"


def _flat(source: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a document's fields as one dict in which the fields of inner objects have names with dots ("a.b")."""
    flat: dict[str, Any] = {}
    for name, value in source.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
