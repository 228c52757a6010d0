"""A reranker that scores documents with the retriever service."""

import asyncio
from collections.abc import Sequence
from math import isfinite
from typing import Protocol

from pointsman_servicekit.errors import Unavailable

from pointsman_gateway.reranking.stage import RerankRequest, Scores

MAX_SECONDS = 60.0
"""Timeout of one call of the retriever, whose own timeout is `POINTSMAN_RETRIEVER_RERANKER_TIMEOUT`."""


class DocumentScorer(Protocol):
    """Interface of a client of the retriever, which scores documents for a query; `RetrieverClient` implements it."""

    async def score(self, query: str, documents: Sequence[str], deadline: float) -> Sequence[float]:
        """Returns a score for each document, in the order of `documents`; a higher score is a better match to the
        query.

        `deadline` is in seconds on the event loop's clock. Raises InvalidArgument and ResourceExhausted if the
        retriever answers with these errors, and Unavailable for all its other errors.
        """
        ...


class RetrieverReranker:
    """Scores documents with the retriever's reranker; implements `Reranker`.

    The retriever reports no token counts, so the tokens to charge are estimated.
    """

    def __init__(self, retriever: DocumentScorer) -> None:
        self._retriever = retriever

    async def rerank(self, inputs: RerankRequest) -> Scores:
        deadline = min(inputs.request.deadline, asyncio.get_running_loop().time() + MAX_SECONDS)
        scores = tuple(await self._retriever.score(inputs.query, inputs.documents, deadline))
        if len(scores) != len(inputs.documents) or not all(map(isfinite, scores)):
            raise Unavailable(
                f"the retriever's reranker gave {len(scores)} scores for {len(inputs.documents)} documents, or one "
                "that is not finite",
                code="reranker_failed",
                retry_after=1.0,
            )
        return Scores(scores, inputs.estimate)
