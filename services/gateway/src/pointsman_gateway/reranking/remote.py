"""A reranker at an HTTP endpoint, with the rerank API that Cohere, Jina and vLLM share."""

from collections.abc import Mapping
from dataclasses import replace
from math import isfinite
from typing import Any

import msgspec

from pointsman_gateway.extensions.http_poster import HttpPoster
from pointsman_gateway.model_calls.call import Charge
from pointsman_gateway.model_calls.endpoint import EndpointClient, ModelEndpoint, charge_tokens, shown_text
from pointsman_gateway.reranking.stage import RerankRequest, Scores

MAX_ROW_BYTES = 1024
"""Maximum number of bytes of a response for each document, without the document itself, which some endpoints repeat."""
MAX_OTHER_BYTES = 64 * 1024
MAX_ESCAPE = 6
"""Maximum number of bytes of JSON for one byte of a text: an escape such as \\u0000 has six."""
MAX_ADDED_TOKENS = 64
"""Maximum number of tokens that an endpoint may add to each pair of query and document: special tokens, and a
prompt."""


class RemoteReranker:
    """Scores documents with a model at an HTTP endpoint; implements `Reranker`."""

    def __init__(self, endpoint: ModelEndpoint, http: HttpPoster) -> None:
        self._endpoint = EndpointClient(endpoint, http)

    async def rerank(self, inputs: RerankRequest) -> Scores:
        """Sends the query and the documents to the endpoint, and returns the documents' scores.

        Raises InvalidArgument if the endpoint rejects the request, NotFound if it lacks the model, Unavailable if it
        fails or its response does not have a finite score for each document, and the errors of `inputs.reserve`.
        """
        documents = inputs.documents
        body = {"query": inputs.query, "documents": documents, "top_n": len(documents)}
        most = MAX_OTHER_BYTES + MAX_ROW_BYTES * len(documents) + MAX_ESCAPE * inputs.document_bytes
        reply = await self._endpoint.post(body, inputs.request.deadline, most, inputs.reserve)
        content = b"".join(reply.pieces)
        try:
            found = msgspec.json.decode(content)
            scores = {int(row["index"]): float(row["relevance_score"]) for row in found["results"]}
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
            raise self._endpoint.failed(f"its answer has another form: {shown_text(content[:500], 100)!r}") from None
        if sorted(scores) != list(range(len(documents))) or not all(map(isfinite, scores.values())):
            raise self._endpoint.failed(f"it scored {len(scores)} of {len(documents)} documents with a finite number")
        return Scores(tuple(scores[number] for number in range(len(documents))), _charge(found, inputs))


def _charge(found: Mapping[str, Any], inputs: RerankRequest) -> Charge:
    """Returns the quantities that the endpoint reports: tokens, as Jina and vLLM do, or search units, as Cohere does.
    If it reports none, returns the estimate.

    One document is a hundredth of a search unit, and a long one counts as several:
    https://docs.cohere.com/docs/how-does-cohere-pricing-work
    """
    usage = found.get("usage")
    most = inputs.max_tokens + MAX_ADDED_TOKENS * len(inputs.documents)
    charge = charge_tokens(usage if isinstance(usage, dict) else {}, inputs.estimate, most)
    try:
        searches = found["meta"]["billed_units"]["search_units"]
    except (LookupError, TypeError):
        return charge
    is_possible = type(searches) is int and 0 <= searches <= most
    return replace(charge, searches=searches) if is_possible else charge
