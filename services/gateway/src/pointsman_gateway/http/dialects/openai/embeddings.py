"""`POST /v1/embeddings`: converts texts to vectors."""

from functools import partial
from operator import attrgetter
from typing import Annotated, Literal

from fastapi import Request
from pointsman_servicekit.errors import InvalidArgument
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from pointsman_gateway import domain
from pointsman_gateway.codec.token_ids import TokenIds, decode_with_token_ids
from pointsman_gateway.config.providers import EMBEDDING_FIELDS, request_fields
from pointsman_gateway.embeddings.stage import EmbeddingRequest
from pointsman_gateway.http.dependencies import caller_of_request, deadline_of_request, dependencies_of
from pointsman_gateway.http.dialects.openai.errors import OPENAI_ERRORS
from pointsman_gateway.http.fields import TEXTS_OR_TOKENS, FailFastList
from pointsman_gateway.http.json_route import JsonRoute
from pointsman_gateway.http.model_call import ModelCallResponse

MAX_INPUTS = 2048


TextsOrTokenIds = Annotated[str | FailFastList[str] | TokenIds, TEXTS_OR_TOKENS]


class EmbeddingBody(BaseModel):
    """The body of `POST /v1/embeddings`. Undeclared fields are sent on if the engine accepts them."""

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


async def embed(body: EmbeddingBody, request: Request) -> Response:
    """Returns a vector for each text or list of token ids. Vectors of the gateway's own model have length 1."""
    dependencies = dependencies_of(request)
    wanted = body.to_wanted(deadline_of_request(request), caller_of_request(request))
    models = dependencies.configuration.current.embeddings
    return ModelCallResponse(dependencies.pipeline, models, wanted, attrgetter("pieces"), OPENAI_ERRORS)
