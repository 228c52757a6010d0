"""Rerankers behind HTTP, in the API of Text Embeddings Inference or of Cohere."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import httpx
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.http_client import open_async_client, read_body

from pointsman_retriever.rerank.rerankers import RerankerOptions

MAX_ROW_BYTES = 64 * 1024
"""Maximum bytes of a response for each reranked text: its score, and perhaps the text itself."""
MAX_OTHER_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class HttpApi:
    """The names and the layout of requests and responses of one reranking API, such as Cohere's."""

    make_body: Callable[[str, str, Sequence[str]], Mapping[str, Any]]  # from model, query and texts
    find_rows: Callable[[Any], Any]  # from the response to its list of scored texts; may raise KeyError or TypeError
    score_key: str  # of each row; the text's position is "index" everywhere


# https://huggingface.github.io/text-embeddings-inference
TEI = HttpApi(
    make_body=lambda model, query, texts: {"query": query, "texts": list(texts), "truncate": True},
    find_rows=lambda response: response,
    score_key="score",
)
# https://docs.cohere.com/reference/rerank
COHERE = HttpApi(
    make_body=lambda model, query, texts: {
        "model": model,
        "query": query,
        "documents": list(texts),
        "top_n": len(texts),
    },
    find_rows=lambda response: response["results"],
    score_key="relevance_score",
)


class UnreadableAnswer(ValueError):
    """A reranker's response is not in its API's format, or does not have a finite score for each text."""


class HttpReranker:
    """Scores passages with a reranking service over HTTP, in the format of an `HttpApi`; implements `Reranker`."""

    def __init__(self, api: HttpApi, options: RerankerOptions) -> None:
        self._api = api
        self._options = options
        headers = {"Authorization": f"Bearer {options.key}"} if options.key else {}
        self._http = open_async_client(headers=headers, timeout=options.timeout)

    async def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        try:
            body = self._api.make_body(self._options.model, query, texts)
            async with (
                asyncio.timeout(self._options.timeout),  # httpx's own timeout is that of each read
                self._http.stream("POST", self._options.url, json=body) as response,
            ):
                response.raise_for_status()
                content = await read_body(response, MAX_ROW_BYTES * len(texts) + MAX_OTHER_BYTES)
            return self._scores(content, len(texts))
        except (httpx.HTTPError, TimeoutError, ValueError) as error:
            raise Unavailable(
                f"the reranker at {self._options.url} did not score the passages: {error!r}; check it, or search "
                "without `rerank`",
                code="reranker_failed",
                retry_after=1.0,
            ) from error

    async def close(self) -> None:
        await self._http.aclose()

    def _scores(self, content: bytes, count: int) -> list[float]:
        """Returns the score of each of `count` texts from a response; raises UnreadableAnswer."""
        try:
            rows = self._api.find_rows(json.loads(content))
            scores = {int(row["index"]): float(row[self._api.score_key]) for row in rows}
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise UnreadableAnswer(f"its answer has not the form of this API: {error!r}") from error
        if sorted(scores) != list(range(count)) or not all(map(isfinite, scores.values())):
            raise UnreadableAnswer(f"it must give each of the {count} texts a finite score; it scored {len(scores)}")
        return [scores[place] for place in range(count)]


def tei_reranker(options: RerankerOptions) -> HttpReranker:
    return HttpReranker(TEI, options)


def cohere_reranker(options: RerankerOptions) -> HttpReranker:
    return HttpReranker(COHERE, options)
