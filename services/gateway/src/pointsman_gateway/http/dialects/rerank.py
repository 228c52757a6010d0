"""`POST /v1/rerank` and `/v2/rerank`: scores documents, for the clients of Cohere and of Jina.

One answer serves both: Cohere's clients read `meta.billed_units`, Jina's `usage` and `documents`. Errors have the texts
of both APIs, in addition to OpenAI's.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import msgspec
from fastapi import Request
from pointsman_servicekit.errors import InvalidArgument, PointsmanError
from pointsman_servicekit.logs import request_id
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from pointsman_gateway import domain
from pointsman_gateway.http.dependencies import caller_of_request, deadline_of_request, dependencies_of
from pointsman_gateway.http.dialect import Dialect, MeteredRoute
from pointsman_gateway.http.dialects.openai.errors import OpenAIErrors
from pointsman_gateway.http.fields import Expected, FailFastList, StrictBody
from pointsman_gateway.http.model_call import ModelCallResponse
from pointsman_gateway.reranking.stage import RerankRequest, Scores

MAX_DOCUMENTS = 1_000
MAX_DOCUMENT_CHARACTERS = 131_072
MAX_QUERY_CHARACTERS = 16_384


class DocumentObject(BaseModel):
    """A document of the form {"text": ...}; Cohere's clients may send other fields, which are not read."""

    model_config = ConfigDict(extra="ignore")

    text: str


Document = Annotated[str | DocumentObject, Expected('a text, or an object with a "text"')]


class RerankBody(StrictBody):
    """The body of `POST /v2/rerank`. The answer does not repeat the documents, like that of Cohere's API."""

    model: str = Field(default="", description="a name out of models.yaml's `rerankers`")
    query: str
    documents: FailFastList[Document] = Field(description=f"1 to {MAX_DOCUMENTS} texts, or objects with a `text`")
    top_n: int | None = Field(default=None, ge=1, lt=2**31, description="how many of the best; unset: all")
    max_tokens_per_doc: int | None = Field(
        default=None, ge=1, lt=2**31, description="accepted from Cohere's clients; rerankers cut long texts themselves"
    )
    priority: int | None = Field(default=None, description="accepted from Cohere's clients, and ignored")
    user: str | None = None

    def to_wanted(self, deadline: float, caller: domain.Caller = domain.ANONYMOUS) -> RerankRequest:
        """Converts the body to a `RerankRequest`; `deadline` is in seconds on the event loop's clock.

        Raises InvalidArgument if the model, the query or a document is empty, or there are too many or too long
        documents.
        """
        if not self.model:
            raise InvalidArgument("'model' is empty; GET /v1/models lists them", code="missing_model", param="model")
        _check_text("query", self.query, MAX_QUERY_CHARACTERS)
        if not 0 < len(self.documents) <= MAX_DOCUMENTS:
            raise InvalidArgument(
                f"'documents' has {len(self.documents)} entries; 1 to {MAX_DOCUMENTS}",
                code="bad_parameter",
                param="documents",
            )
        texts = tuple(each if isinstance(each, str) else each.text for each in self.documents)
        for number, text in enumerate(texts):
            _check_text(f"documents[{number}]", text, MAX_DOCUMENT_CHARACTERS)
        request = domain.Request(
            self.model,
            (domain.Message("user", self.query),),
            user=self.user or "",
            deadline=deadline,
            caller=caller,
            operation="rerank",
        )
        return RerankRequest(request, self.query, texts)


class RerankBodyV1(RerankBody):
    """The body of `POST /v1/rerank`: the fields of v2, and those that only older clients of Cohere, Jina and
    vLLM send.
    """

    return_documents: bool = Field(default=True, description="whether the results repeat the documents, as Jina's do")
    rank_fields: FailFastList[str] | None = Field(default=None, description='of Cohere\'s clients: only ["text"]')
    max_chunks_per_doc: int | None = Field(default=None, description="accepted from Cohere's clients, and ignored")
    truncation: bool | None = Field(default=None, description="accepted from Jina's clients, and ignored")
    truncate_prompt_tokens: int | None = Field(default=None, description="accepted from vLLM's clients, and ignored")

    def to_wanted(self, deadline: float, caller: domain.Caller = domain.ANONYMOUS) -> RerankRequest:
        if self.rank_fields not in (None, ["text"]):
            raise InvalidArgument(
                "'rank_fields' can only be [\"text\"]: join the other fields to one text",
                code="unsupported_parameter",
                param="rank_fields",
            )
        return super().to_wanted(deadline, caller)


def _check_text(name: str, text: str, most: int) -> None:
    param = name.partition("[")[0]
    if not text or text.isspace():
        raise InvalidArgument(f"{name} is empty", code="empty_input", param=param)
    if len(text) > most:
        raise InvalidArgument(
            f"{name} has {len(text):,} characters; at most {most:,}", code="context_length_exceeded", param=param
        )


def encode_scores(
    scores: Scores, wanted: RerankRequest, top_n: int | None, api_version: str, with_documents: bool
) -> tuple[bytes, ...]:
    """Returns the JSON body of the response as a tuple of one item: the `top_n` best documents (None: all) with
    their scores, the best first.

    `wanted` is the request. `api_version` is the version of Cohere's API, and `with_documents` says whether each
    result repeats its document.
    """
    results = []
    for number in scores.best(top_n or len(wanted.documents)):
        result: dict[str, Any] = {"index": number, "relevance_score": scores.of_documents[number]}
        if with_documents:
            result["document"] = {"text": wanted.documents[number]}
        results.append(result)
    charge = scores.charge
    body = {
        "id": request_id.get(),
        "object": "list",
        "model": wanted.request.model,
        "results": results,
        "usage": {"total_tokens": charge.tokens, "prompt_tokens": charge.tokens},
        "meta": {"api_version": {"version": api_version}, "billed_units": {"search_units": charge.searches}},
    }
    return (msgspec.json.encode(body),)


@dataclass(frozen=True, slots=True)
class RerankErrors(OpenAIErrors):
    """OpenAI's errors, with `message` as Cohere's have it, and `detail` as Jina's."""

    def encode(self, error: PointsmanError) -> tuple[int, dict[str, Any]]:
        status, body = OpenAIErrors.encode(self, error)
        return status, {"message": error.message, "detail": error.message, **body}

    def encode_rejection(self, status: int, code: str, message: str) -> dict[str, Any]:
        return {
            "message": message,
            "detail": message,
            **OpenAIErrors.encode_rejection(self, status, code, message),
        }


RERANK_ERRORS = RerankErrors(conversation="query", schema="RerankError")


async def rerank(body: RerankBodyV1, request: Request) -> Response:
    """Scores how well each document answers the query; the best come first. For clients of Jina and of Cohere's v1."""
    return _respond(body, request, "1", body.return_documents)


async def rerank_v2(body: RerankBody, request: Request) -> Response:
    """Scores how well each document answers the query; the best come first. For clients of Cohere's v2."""
    return _respond(body, request, "2", False)


def _respond(body: RerankBody, request: Request, api_version: str, with_documents: bool) -> Response:
    dependencies = dependencies_of(request)
    wanted = body.to_wanted(deadline_of_request(request), caller_of_request(request))
    encode = partial(
        encode_scores, wanted=wanted, top_n=body.top_n, api_version=api_version, with_documents=with_documents
    )
    models = dependencies.configuration.current.rerankers
    return ModelCallResponse(dependencies.pipeline, models, wanted, encode, RERANK_ERRORS)


RERANK = Dialect(
    path="/v1/rerank",
    handler=rerank,
    error_format=RERANK_ERRORS,
    operation="rerank",
    further=(MeteredRoute(path="/v2/rerank", handler=rerank_v2, operation="rerank"),),
)
