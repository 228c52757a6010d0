"""`POST /v1/embeddings`: converts texts to vectors."""

from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

from fastapi import Request
from pointsman_servicekit.buffer_budget import BufferReservation
from pointsman_servicekit.errors import InvalidArgument, NotFound
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pointsman_gateway import domain
from pointsman_gateway.codec.headers import Headers
from pointsman_gateway.codec.token_ids import TokenIds, decode_with_token_ids
from pointsman_gateway.config.providers import EMBEDDING_FIELDS, request_fields
from pointsman_gateway.embeddings.stage import EmbeddingRequest, Embeddings, EncodedEmbeddings
from pointsman_gateway.http.asgi_answer import ClientDisconnected, run_until_disconnect, send_error
from pointsman_gateway.http.dependencies import (
    HttpDependencies,
    caller_of_request,
    deadline_of_request,
    dependencies_of,
)
from pointsman_gateway.http.encoding import JSON_TYPE, encode_headers
from pointsman_gateway.http.fields import TEXTS_OR_TOKENS, FailFastList
from pointsman_gateway.http.json_route import JsonRoute
from pointsman_gateway.pipeline.public_error import to_public_error

MAX_INPUTS = 2048


TextsOrTokenIds = Annotated[str | FailFastList[str] | TokenIds, TEXTS_OR_TOKENS]


class EmbeddingBody(BaseModel):
    """The body of `POST /v1/embeddings`. Other fields than these are sent on if the engine accepts them."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(default="", description="a name out of models.yaml's `embeddings`, or the own model's")
    input: TextsOrTokenIds = Field(
        description=f"a text, up to {MAX_INPUTS} texts, or token ids of the model's own tokenizer"
    )
    overflow: domain.Overflow | None = Field(
        default=None, description="of the gateway's own model: what is done with texts that are too long for it"
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1, lt=2**63)
    user: str | None = None

    def to_wanted(self, deadline: float, caller: domain.Caller = domain.ANONYMOUS) -> EmbeddingRequest:
        """Converts the body to an embedding request; `deadline` is in seconds on the event loop's clock.

        Raises InvalidArgument if the model or an input is empty, there are not 1 to `MAX_INPUTS` inputs, or a field is
        not accepted.
        """
        if not self.model:
            raise InvalidArgument("'model' is empty; GET /v1/models lists them", code="missing_model", param="model")
        extra = request_fields(EMBEDDING_FIELDS).select(self.model_extra or {})
        texts, token_ids = self._inputs()
        # Admission checks these fields as those of a conversation.
        first = domain.Message("user", texts[0] if texts else "")
        return EmbeddingRequest(
            request=domain.Request(
                self.model, (first,), user=self.user or "", deadline=deadline, caller=caller, operation="embeddings"
            ),
            texts=texts,
            token_ids=token_ids,
            base64=self.encoding_format == "base64",
            dimensions=self.dimensions,
            overflow=self.overflow,
            body={
                **self.model_dump(include=self.model_fields_set & _FIELDS),
                **extra,
                "input": token_ids.encoded if token_ids else self.input,
            },
        )

    def _inputs(self) -> tuple[tuple[str, ...], TokenIds | None]:
        inputs = [self.input] if isinstance(self.input, str) else self.input
        entries = inputs.counts if isinstance(inputs, TokenIds) else inputs
        if not 0 < len(entries) <= MAX_INPUTS:
            raise InvalidArgument(
                f"'input' has {len(entries)} entries; 1 to {MAX_INPUTS}", code="bad_parameter", param="input"
            )
        for number, entry in enumerate(entries):
            if not entry or (isinstance(entry, str) and entry.isspace()):
                raise InvalidArgument(f"input[{number}] is empty", code="empty_input", param="input")
        return ((), inputs) if isinstance(inputs, TokenIds) else (tuple(inputs), None)


_FIELDS = set(EmbeddingBody.model_fields) - {"input", "overflow"}


class EmbeddingRoute(JsonRoute):
    decode = staticmethod(partial(decode_with_token_ids, name="input"))


class EmbeddingResponse(Response):
    """A response that computes the embeddings while it is sent, and cancels that if the client disconnects."""

    def __init__(self, dependencies: HttpDependencies, wanted: EmbeddingRequest) -> None:
        self.background = None
        self._dependencies = dependencies
        self._wanted = wanted
        self._has_started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await run_until_disconnect(scope, receive, self._answer(send))
        except (ClientDisconnected, OSError):
            if not self._has_started:
                self._dependencies.pipeline.record_rejection("embeddings", None, caller=self._wanted.request.caller)

    async def _answer(self, send: Send) -> None:
        self._has_started = True
        embeddings = self._dependencies.configuration.current.embeddings
        held = embeddings.reserve_answer()
        try:
            await self._embed_and_send(send, embeddings, held)
        finally:
            held.release()

    async def _embed_and_send(self, send: Send, embeddings: Embeddings, held: BufferReservation) -> None:
        wanted = replace(self._wanted, reserve=partial(held.grow, self._wanted.request.caller.tenant))
        pipeline = self._dependencies.pipeline
        try:
            run = embeddings.run(wanted)
        except NotFound as rejection:
            pipeline.record_rejection("embeddings", rejection, caller=wanted.request.caller)
            await send_error(send, rejection, [])
            return
        try:
            embedded = await pipeline.embed(run)
        except Exception as error:
            await send_error(send, to_public_error(error), [])
            return
        own_headers = {"x-pointsman-cost-usd": f"{embedded.usd:.9f}", **embedded.headers}
        headers: Headers = [JSON_TYPE, *encode_headers(own_headers)]
        await _send_parts(send, headers, embedded)


async def embed(body: EmbeddingBody, request: Request) -> Response:
    """Returns a vector for each text or list of token ids. Vectors of the gateway's own model have length 1."""
    return EmbeddingResponse(
        dependencies_of(request), body.to_wanted(deadline_of_request(request), caller_of_request(request))
    )


async def _send_parts(send: Send, headers: Headers, embedded: EncodedEmbeddings) -> None:
    length = (b"content-length", b"%d" % sum(map(len, embedded.pieces)))
    await send({"type": "http.response.start", "status": 200, "headers": [*headers, length]})
    for piece in embedded.pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
