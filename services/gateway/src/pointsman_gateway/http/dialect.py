"""The interface of endpoint dialects: everything in which one API for conversations differs from the others.

Each dialect is declared in its own module of `dialects`, and listed in `dialects.registry`. Requests of all dialects
become the same `Request`, and run in the same way.
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
"""Decodes a body of the common form; returns None for all others. Its parameters are the body, and those of
`ConversationBody.to_request`. Raises InvalidArgument."""


class ConversationBody(Protocol):
    """The decoded body of a conversation, in any dialect."""

    model: str
    stream: bool | None

    def to_request(self, deadline: float, caller: domain.Caller, cache: str, arrived: float) -> domain.Request:
        """Converts the body to a `Request`; raises InvalidArgument.

        `deadline` is on the event loop's clock, `cache` the cache mode, and `arrived` is of `perf_counter`.
        """
        ...

    def encoder(self) -> AnswerEncoder: ...

    def read_headers(self, headers: Mapping[bytes, bytes]) -> None:
        """Stores the values of the dialect's own headers in the body; called before `to_request`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectReading:
    """How requests are read without FastAPI."""

    decode: Callable[[bytes], ConversationBody]
    """Decodes a body of any form; raises InvalidArgument."""
    read_plain: ReadPlain
    """Decodes a body of the common form, for `fast_reader`."""
    queries: tuple[str, ...] = ()
    """Query strings that the common form may have."""
    rare_headers: frozenset[bytes] = frozenset()
    """Headers that only `read_headers` reads, so that a request with one of them is not in the common form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelForm:
    """One API's response format for `GET /v1/models`, a route that several APIs have."""

    header: bytes = b""
    """The header by which the API's clients are known; empty: all clients without another API's."""
    has_embeddings: bool
    """Whether the list has the embedding models, too."""
    page: Callable[[Sequence[str], int, QueryParams], dict[str, Any]]
    """Makes the list of models of their names, the Unix time of their creation, and the request's query.

    Raises InvalidArgument for a bad query."""
    model: Callable[[str, int], dict[str, Any]]
    """Makes one model's entry of its name and the Unix time of its creation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteredRoute:
    """A route whose requests get a receipt."""

    path: str
    handler: Handler
    operation: domain.Operation
    """The operation in the receipt of a rejected request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """An API for conversations."""

    path: str
    """Its route. Errors of all paths that begin like this have its format."""
    handler: Handler
    error_format: ErrorFormat
    """The format of errors that are reported before an encoder is known."""
    operation: domain.Operation = "chat"
    further: tuple[MeteredRoute, ...] = ()
    """Its other routes."""
    direct: DirectReading | None = None
    """None: FastAPI reads all requests, and `handler` answers them. Otherwise `handler` is documentation."""
    models: ModelForm | None = None
    """None: its clients get OpenAI's format."""
    takes_token_ids: bool = False
    """Whether a body may hold token ids instead of text."""

    @property
    def routes(self) -> tuple[MeteredRoute, ...]:
        return (MeteredRoute(path=self.path, handler=self.handler, operation=self.operation), *self.further)
