"""The reranker interface and the registry of its implementations.

To add a reranker, write a module with a factory and add one line to RERANKERS. Without changing this package, name a
factory as `module:attribute` in POINTSMAN_RETRIEVER_RERANKER_API, or publish it as an entry point of the group
`pointsman.rerankers`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

GROUP = "pointsman.rerankers"

DEFAULT_API = "tei"

RERANKERS: Mapping[str, str] = {
    "tei": "pointsman_retriever.rerank.http:tei_reranker",
    "cohere": "pointsman_retriever.rerank.http:cohere_reranker",
}


class Reranker(Protocol):
    """Interface for scoring passages for a query; used from the event loop's thread. `HttpReranker` implements it."""

    async def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """Returns a score for each text, in the order of `texts`, on any scale; a greater one is better.

        `texts` is not empty. Raises Unavailable if the texts cannot be scored.
        """

    async def close(self) -> None:
        """Releases connections and memory; called once, at shutdown."""


@dataclass(frozen=True, slots=True)
class RerankerOptions:
    """The settings that are passed to the factory of a reranker: complete URL, model, API key, and the timeout of one
    answer in seconds.
    """

    url: str = field(default="", repr=False)  # the complete address, for example http://reranker:8080/rerank
    model: str = ""
    key: str = field(default="", repr=False)
    timeout: float = 5.0  # seconds, for one answer


RerankerFactory = Callable[[RerankerOptions], Reranker]
