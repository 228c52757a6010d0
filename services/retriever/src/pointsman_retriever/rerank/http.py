"""A reranker behind HTTP, as text-embeddings-inference or Cohere serve one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import httpx
from pointsman_servicekit.errors import Unavailable

Shape = Literal["tei", "cohere"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    url: str  # the whole address, for example http://reranker:8080/rerank or https://api.cohere.com/v2/rerank
    shape: Shape = "tei"
    model: str = ""  # Cohere's shape names one
    key: str = ""
    seconds: float = 5.0  # for one answer


class HttpReranker:
    """Implements `Reranker`."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
        self._http = httpx.AsyncClient(headers=headers, timeout=endpoint.seconds)

    async def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """How well each text answers, greater is better; raises Unavailable."""
        if not texts:
            return []
        try:
            response = await self._http.post(self._endpoint.url, json=self._asked(query, texts))
            response.raise_for_status()
            return self._scores(response.json(), len(texts))
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise Unavailable(
                f"the reranker at {self._endpoint.url} did not score the passages: {error!r}; search without it, or "
                "see to it",
                code="reranker_failed",
                retry_after=1.0,
            ) from error

    async def close(self) -> None:
        await self._http.aclose()

    def _asked(self, query: str, texts: Sequence[str]) -> Mapping[str, Any]:
        if self._endpoint.shape == "tei":
            return {"query": query, "texts": list(texts), "truncate": True}
        return {"model": self._endpoint.model, "query": query, "documents": list(texts), "top_n": len(texts)}

    def _scores(self, answer: Any, count: int) -> list[float]:
        """Raises ValueError, KeyError or TypeError for an answer that does not score each text once."""
        rows, name = (answer, "score") if self._endpoint.shape == "tei" else (answer["results"], "relevance_score")
        scores = {int(row["index"]): float(row[name]) for row in rows}
        if sorted(scores) != list(range(count)):
            raise ValueError(f"it scored {len(scores)} of {count} texts")
        return [scores[place] for place in range(count)]
