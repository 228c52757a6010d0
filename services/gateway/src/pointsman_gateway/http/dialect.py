"""The interface of dialects. A dialect is one API that the HTTP server offers, such as Anthropic's Messages API.

Each dialect is declared in its own module of `dialects`, and listed in `dialects.registry`. Conversations of all
dialects are converted to the same `Request`, and run in the same way.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.datastructures import QueryParams
from starlette.responses import Response

from pointsman_gateway import domain
from pointsman_gateway.http.encoding import AnswerEncoder, ErrorFormat

Handler = Callable[..., Awaitable[Response]]
"""A handler of FastAPI; its name, parameters and docstring are in the OpenAPI document."""

ReadPlain = Callable[[bytes, float, domain.Caller, str, float], tuple[domain.Request, AnswerEncoder] | None]
"""Decodes a body of the common form, in which all content is text and no field is undeclared.

Takes the JSON and the arguments of `ConversationBody.to_request`. Returns the request and the encoder of its answer;
None if the body is invalid or of another form. Raises InvalidArgument as `to_request` does."""


class ConversationBody(Protocol):
    """Interface of a decoded body of a conversation. Each dialect's body implements it, such as `ChatBody`."""

    model: str
    stream: bool | None

    def to_request(self, deadline: float, caller: domain.Caller, cache: str, arrived: float) -> domain.Request:
        """Converts the body to a `Request`, the form in which the pipeline runs requests of all APIs.

        `deadline` is in seconds on the event loop's clock, `arrived` in seconds of `perf_counter` (0 if unknown),
        and `cache` says how the request uses the answer cache (a result of `cache_mode`). Raises InvalidArgument if
        content is invalid or unknown, or a limit is exceeded.
        """
        ...

    def encoder(self) -> AnswerEncoder: ...

    def read_headers(self, headers: Mapping[bytes, bytes]) -> None:
        """Adds the data in the API's own request headers, such as `anthropic-beta`, to the body; called before
        `to_request`.

        `headers` are the request's headers, by lower-case name. Raises InvalidArgument if body and headers contradict
        each other.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectReading:
    """The functions that decode an API's requests without FastAPI, which is faster."""

    decode: Callable[[bytes], ConversationBody]
    """Decodes the JSON of a body of any form; raises InvalidArgument if the body is invalid."""
    read_plain: ReadPlain
    """Decodes a body of the common form, for `fast_reader`."""
    queries: tuple[str, ...] = ()
    """Query strings, such as "?beta=true", that `fast_reader` accepts; requests without a query string are always
    accepted."""
    rare_headers: frozenset[bytes] = frozenset()
    """Lower-case names of headers that only `read_headers` reads. `fast_reader` leaves requests with such a header to
    uvicorn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelForm:
    """One API's response format for `GET /v1/models`, a route that several APIs have."""

    header: bytes = b""
    """Lower-case name of a header that only the API's clients send; empty for the form that all other clients get."""
    has_all: bool
    """Whether the list includes the embedding models and rerankers."""
    page: Callable[[Sequence[str], int, QueryParams], dict[str, Any]]
    """Returns the response for the models' names, their creation in Unix seconds, and the parameters of the request's
    query.

    Raises InvalidArgument for a bad parameter."""
    model: Callable[[str, int], dict[str, Any]]
    """Returns the entry of one model, from its name and its creation in Unix seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteredRoute:
    """A route of the HTTP API whose requests get a receipt, even if they are rejected before they run."""

    path: str
    handler: Handler
    operation: domain.Operation
    """The operation in the receipt of a rejected request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One API that the HTTP server offers, such as OpenAI's chat completions: its paths, handlers, error format and
    options.
    """

    path: str
    """The dialect's main path, such as "/v1/messages", without parameters. Errors have the dialect's format at this
    path, at the paths of `further`, and at all paths that begin with one of them."""
    handler: Handler
    error_format: ErrorFormat
    """The format of errors of requests that are rejected before they have an encoder, which has a format of its own."""
    operation: domain.Operation = "chat"
    """The operation in the receipt of a rejected request."""
    further: tuple[MeteredRoute, ...] = ()
    """The dialect's other routes."""
    direct: DirectReading | None = None
    """How requests are read without FastAPI, which then only documents `handler`. None: FastAPI reads all requests, and
    `handler` answers them."""
    models: ModelForm | None = None
    """How `GET /v1/models` answers the API's clients; None: in OpenAI's form."""
    takes_token_ids: bool = False
    """Whether a body may hold token ids instead of text."""

    def __post_init__(self) -> None:
        if "{" in self.path:
            raise ValueError(
                f"{self.path}: the path of a dialect has no parameters; routes with some are `further` ones"
            )

    @property
    def routes(self) -> tuple[MeteredRoute, ...]:
        return (MeteredRoute(path=self.path, handler=self.handler, operation=self.operation), *self.further)

    @property
    def is_conversation(self) -> bool:
        """Returns whether requests at the dialect's main path are conversations, which a path of the configuration
        answers. Embeddings and reranking are not.
        """
        return self.operation in ("chat", "completion")
