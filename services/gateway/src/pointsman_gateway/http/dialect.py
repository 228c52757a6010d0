"""What an endpoint dialect is: everything in which one API for conversations differs from the others.

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
"""Reads the common form of a body; None for all others. Its parameters are the body, and those of `to_request`."""


class ConversationBody(Protocol):
    """The decoded body of a conversation, in any dialect."""

    model: str
    stream: bool | None

    def to_request(self, deadline: float, caller: domain.Caller, cache: str, arrived: float) -> domain.Request:
        """Converts the body to a `Request`; raises InvalidArgument."""
        ...

    def encoder(self) -> AnswerEncoder: ...

    def read_headers(self, headers: Mapping[bytes, bytes]) -> None:
        """Reads the headers that belong to the dialect, before `to_request`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectReading:
    """How requests are read without FastAPI."""

    decode: Callable[[bytes], ConversationBody]
    """Raises InvalidArgument."""
    read_plain: ReadPlain
    """For the reader that needs no ASGI either."""
    queries: tuple[str, ...] = ()
    """What may follow the path in the common form."""
    rare_headers: frozenset[bytes] = frozenset()
    """Headers that only `read_headers` reads, so that a request with one of them is not in the common form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelForm:
    """A form of `GET /v1/models`, a route that several APIs have."""

    header: bytes = b""
    """The header by which the API's clients are known; empty: all clients without another API's."""
    has_embeddings: bool
    """Whether the list has the embedding models, too."""
    page: Callable[[Sequence[str], int, QueryParams], dict[str, Any]]
    """Returns the list of models by their names, the Unix time of their creation and the query.

    Raises InvalidArgument."""
    model: Callable[[str, int], dict[str, Any]]
    """Returns one model, by its name and the Unix time of its creation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteredRoute:
    """A route whose requests leave a receipt."""

    path: str
    handler: Handler
    operation: domain.Operation
    """As the receipt of a rejected request names it."""


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
    """None: its clients get OpenAI's."""
    takes_token_ids: bool = False
    """Whether a body may hold token ids instead of text."""

    @property
    def routes(self) -> tuple[MeteredRoute, ...]:
        return (MeteredRoute(path=self.path, handler=self.handler, operation=self.operation), *self.further)
