"""Scores texts for a query by the configured reranker: passages of a search, and documents that a caller sends."""

from collections.abc import Sequence

from pointsman_servicekit.errors import FailedPrecondition

from pointsman_retriever import limits
from pointsman_retriever.concurrency import CallLimit
from pointsman_retriever.rerank.rerankers import Reranker


class RerankService:
    """Scores texts by the configured reranker; without one, each call raises FailedPrecondition ("no_reranker").

    Use from the event loop's thread only.
    """

    def __init__(self, reranker: Reranker | None, calls: CallLimit) -> None:
        """Takes the reranker, None if there is none; `calls` limits the calls of `rerank` that are in progress."""
        self._reranker = reranker
        self._calls = calls

    async def rerank(self, query: str, documents: Sequence[str]) -> list[float]:
        """Returns the score of each document for the query, in the order of `documents`; a greater one is better.

        Raises InvalidArgument if the query or a document is empty, or the documents are too many or too large;
        ResourceExhausted ("overloaded") if too many calls are in progress; FailedPrecondition ("no_reranker") if no
        reranker is configured; and Unavailable if the reranker fails.
        """
        limits.check_rerank(query, documents)
        with self._calls.slot():
            return await self.score(query, documents)

    async def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """Returns the score of each text for the query, in the order of `texts`; a greater one is better.

        Raises FailedPrecondition ("no_reranker") if no reranker is configured, and Unavailable if the reranker fails.
        """
        if self._reranker is None:
            raise FailedPrecondition(
                "this retriever has no reranker; set POINTSMAN_RETRIEVER_RERANKER_URL to its address, or search "
                "without `rerank`",
                code="no_reranker",
                param="rerank",
            )
        return await self._reranker.rerank(query, texts) if texts else []
