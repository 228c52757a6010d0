"""Reads a collection of Qdrant: on a server, in Qdrant Cloud, or in the folder of Qdrant's local mode."""

from collections.abc import Sequence

from pointsman_retriever.domain import Vectors
from pointsman_retriever.external.stores import ExternalOptions, Hit, Layout, require_fields

try:
    from qdrant_client import QdrantClient, models
except ImportError as error:
    raise ImportError("Qdrant's client is not installed: pip install 'pointsman-retriever[qdrant]'") from error


class QdrantCollection:
    """A collection of Qdrant, ranked by vectors only, since Qdrant does not rank by words; implements ExternalStore."""

    def __init__(self, options: ExternalOptions) -> None:
        self._options, self._distance = options, models.Distance.COSINE
        if "://" in options.url:
            self._client = QdrantClient(
                url=options.url, api_key=options.key or None, timeout=max(1, round(options.timeout_seconds)),
                check_compatibility=False,
            )  # fmt: skip
        else:
            self._client = QdrantClient(path=options.url)

    def read_layout(self) -> Layout:
        name = self._options.name
        names = [collection.name for collection in self._client.get_collections().collections]
        if name not in names:
            raise LookupError(f"Qdrant has no collection '{name}'; it has: {', '.join(names[:30]) or 'none'}")
        found = self._client.get_collection(name)
        points, _ = self._client.scroll(name, limit=1, with_payload=True)
        if points:
            require_fields(self._options.fields.read, list(points[0].payload or {}), f"the payload in '{name}'")
        parameters = self._vector_parameters(found.config.params.vectors)
        self._distance = parameters.distance
        return Layout(parameters.size, has_words=False, documents=found.points_count or 0)

    def _vector_parameters(self, vectors: object) -> models.VectorParams:
        if isinstance(vectors, models.VectorParams):
            return vectors
        named: dict[str, models.VectorParams] = vectors if isinstance(vectors, dict) else {}
        wanted = self._options.fields.vector
        if wanted in named:
            return named[wanted]
        raise LookupError(
            f"'{self._options.name}' has the named vectors {', '.join(named) or '(none)'}; name one as fields.vector"
        )

    def by_meaning(self, vector: Vectors, count: int) -> Sequence[Hit]:
        found = self._client.query_points(
            self._options.name,
            query=vector.tolist(),
            using=self._options.fields.vector,
            limit=count,
            with_payload=self._options.fields.read,
        )
        return [Hit(str(point.id), point.payload or {}, self._cosine(point.score)) for point in found.points]

    def _cosine(self, score: float) -> float:
        """Converts Qdrant's score of unit vectors to their cosine.

        For EUCLID the score is their distance; any other score is taken for the cosine itself.
        """
        return 1 - score * score / 2 if self._distance == models.Distance.EUCLID else score

    def by_words(self, text: str, count: int) -> Sequence[Hit]:
        return []

    def close(self) -> None:
        self._client.close()
