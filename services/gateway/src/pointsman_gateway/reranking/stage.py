"""A request to rerank documents, the response to it, and the interface of rerankers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from pointsman_gateway.domain import Request
from pointsman_gateway.domain.request import Scope
from pointsman_gateway.domain.value import CHARACTERS_PER_TOKEN
from pointsman_gateway.model_calls.call import CallableModels, CallKind, Charge, ModelCall

SEARCH_DOCUMENTS = 100
"""Number of documents in one search unit, by which Cohere bills:
https://docs.cohere.com/docs/how-does-cohere-pricing-work"""

RERANKING = CallKind(
    operation="rerank",
    component="rerank",
    noun="reranker",
    config_key="rerankers",
    key_option="--reranker",
    allows=Scope.allows_reranker,
)


@dataclass(frozen=True)
class RerankRequest:
    """A client's request to score documents by how well they answer a query."""

    request: Request
    """The general part of the request: model, caller and deadline. Its only message is the query."""
    query: str
    documents: tuple[str, ...]
    reserve: Callable[[int], None] | None = None
    """Function that reserves memory for a number of further bytes of an endpoint's response; raises Unavailable if
    there is no memory left."""

    @cached_property
    def estimate(self) -> Charge:
        """Returns the estimated tokens and the search units to charge; the query's tokens count once for each
        document.
        """
        characters = len(self.query) * len(self.documents) + sum(map(len, self.documents))
        return Charge(characters // CHARACTERS_PER_TOKEN + len(self.documents), self.searches)

    @property
    def searches(self) -> int:
        return -(-len(self.documents) // SEARCH_DOCUMENTS)

    @cached_property
    def document_bytes(self) -> int:
        """Returns the size of all documents together, in bytes of UTF-8."""
        return sum(len(document.encode()) for document in self.documents)

    @property
    def max_tokens(self) -> int:
        """Returns the largest possible number of tokens to charge, without special tokens: one for each UTF-8 byte.

        The query counts once for each document.
        """
        return self.document_bytes + len(self.query.encode()) * len(self.documents)


@dataclass(frozen=True, slots=True)
class Scores:
    """A reranker's scores for the documents of one request, with the tokens and search units to charge."""

    of_documents: tuple[float, ...]
    """The score of each document, in the order of the request's documents; a higher score is a better match."""
    charge: Charge

    def best(self, count: int) -> Sequence[int]:
        """Returns the indices of the `count` documents with the highest scores, the best one first."""
        order = sorted(range(len(self.of_documents)), key=lambda number: -self.of_documents[number])
        return order[:count]


class Reranker(Protocol):
    """Interface of a reranker, which scores documents for a query; `RetrieverReranker` and `RemoteReranker`
    implement it.
    """

    async def rerank(self, inputs: RerankRequest) -> Scores:
        """Returns a score for each document of the request, in the documents' order; a higher score is a better
        match.

        Raises InvalidArgument if the reranker cannot take the request, NotFound if its endpoint does not serve the
        model, and Unavailable if it fails. Cancelling the call stops the work.
        """
        ...


RerankRun = ModelCall[RerankRequest, Scores]
Rerankers = CallableModels[RerankRequest, Scores]
