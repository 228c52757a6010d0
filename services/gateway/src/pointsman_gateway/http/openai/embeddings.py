"""`POST /v1/embeddings`: texts in, vectors out."""

from typing import Any, Literal

from fastapi import Request
from pointsman_servicekit.errors import InvalidArgument
from pydantic import ConfigDict, Field
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pointsman_gateway import domain
from pointsman_gateway.codec.json_values import WholeCharacters, refuse_infinite
from pointsman_gateway.embeddings.wanted import Embedded, Wanted
from pointsman_gateway.http.asgi_answer import ClientGone, send_error, until_hung_up
from pointsman_gateway.http.dependencies import HttpDoor, caller_of_request, deadline_of, door_of
from pointsman_gateway.http.openai.chat_encoder import Headers
from pointsman_gateway.http.openai.fields import Elements
from pointsman_gateway.http.sinks import JSON, encoded
from pointsman_gateway.pipeline.run import to_public_error

MOST_INPUTS = 2048


class EmbeddingBody(WholeCharacters):
    """What is not named here goes to the engine as it is."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(default="", description="a name out of models.yaml's `embeddings`, or the own model's")
    input: str | Elements[str] | Elements[int] | Elements[Elements[int]] = Field(
        description=f"a text, up to {MOST_INPUTS} texts, or tokens (which the gateway's own model does not read)"
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1, lt=2**63)
    user: str | None = None

    def to_wanted(self, deadline: float, caller: domain.Caller = domain.ANONYMOUS) -> Wanted:
        """Raises InvalidArgument."""
        if not self.model:
            raise InvalidArgument("'model' is empty; GET /v1/models lists them", code="missing_model", param="model")
        refuse_infinite(self.model_extra or {})
        texts, tokens = self._inputs()
        # Admission and the limits know requests by their messages; no text but the first is looked at there.
        seen = domain.Message("user", texts[0] if texts else "tokens")
        return Wanted(
            request=domain.Request(
                self.model, (seen,), user=self.user or "", deadline=deadline, caller=caller, operation="embeddings"
            ),
            texts=texts,
            tokens=tokens,
            base64=self.encoding_format == "base64",
            dimensions=self.dimensions,
            body=self.model_dump(exclude_unset=True),
        )

    def _inputs(self) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
        given: list[Any] = [self.input] if isinstance(self.input, str) else list(self.input)
        if given and isinstance(given[0], int):
            given = [given]
        if not 0 < len(given) <= MOST_INPUTS:
            raise InvalidArgument(
                f"'input' has {len(given)} entries; 1 to {MOST_INPUTS}", code="bad_parameter", param="input"
            )
        for number, one in enumerate(given):
            if not one or (isinstance(one, str) and one.isspace()):
                raise InvalidArgument(f"input[{number}] is empty", code="empty_input", param="input")
        if isinstance(given[0], str):
            return tuple(given), ()
        return (), tuple(tuple(one) for one in given)


class Embedding(Response):
    """Works while its client waits; FastAPI takes it for a response."""

    def __init__(self, door: HttpDoor, wanted: Wanted) -> None:
        self.background = None
        self._door = door
        self._wanted = wanted
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await until_hung_up(scope, receive, self._answer(send))
        except (ClientGone, OSError):
            if not self._begun:
                self._door.pipeline.turned_away("embeddings", None, caller=self._wanted.request.caller)

    async def _answer(self, send: Send) -> None:
        self._begun = True
        embeddings = self._door.configuration.current.embeddings
        try:
            embedded = await embeddings.embed(self._wanted, self._door.pipeline.admission.admitted)
        except Exception as error:
            refusal = to_public_error(error)
            if self._wanted.request.model not in embeddings.names():  # else the receipt has been left
                self._door.pipeline.turned_away("embeddings", refusal, caller=self._wanted.request.caller)
            await send_error(send, refusal, [])
            return
        beside = {"x-pointsman-cost-usd": f"{embedded.usd:.9f}", **embedded.headers}
        headers: Headers = [JSON, *encoded(beside)]
        await _send_pieces(send, headers, embedded)


async def embed(body: EmbeddingBody, request: Request) -> Response:
    """Vectors for texts, each of length one where the gateway's own model makes them."""
    return Embedding(door_of(request), body.to_wanted(deadline_of(request), caller_of_request(request)))


async def _send_pieces(send: Send, headers: Headers, embedded: Embedded) -> None:
    length = (b"content-length", b"%d" % sum(map(len, embedded.pieces)))
    await send({"type": "http.response.start", "status": 200, "headers": [*headers, length]})
    for piece in embedded.pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
