"""The interface of engine dialects: how requests to an engine are written, and how its answers are parsed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pointsman_gateway.config.providers import Endpoint
from pointsman_gateway.domain import Chunks
from pointsman_gateway.engines.engine_client import EngineRequest


class AnswerReader(Protocol):
    """Interface of a parser of one answer, a stream of server-sent events; `EventReader` and `MessagesReader` implement
    it.
    """

    done: bool
    """Whether the last event has arrived."""
    failure: str
    """Why the stream ended early: it cannot be parsed, or it reports an error. Empty if there is no failure."""
    error: Mapping[str, Any]
    """The "code" and "param" of an error that the stream reports in OpenAI's format; empty otherwise."""

    def read(self, piece: bytes) -> Chunks:
        """Returns the chunks of all events that end in this piece, possibly none; the usage comes last.

        Sets `done` at the stream's end, and `failure` if the stream cannot be parsed or reports an error.
        """
        ...


def _no_lines(request: EngineRequest) -> str:
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDialect:
    """A format of requests to engines and of their answers."""

    name: str
    """The name by which providers.yaml assigns the format to a provider."""
    to_body: Callable[[EngineRequest, Endpoint], dict[str, Any]]
    """Returns the body of a request, before JSON encoding; raises InvalidArgument if the format cannot express it."""
    reader: Callable[[bool, int], AnswerReader]
    """Makes the reader of one answer. The first argument says whether chunks that arrive together may be joined, the
    second how many choices are expected."""
    header_lines: Callable[[EngineRequest], str] = _no_lines
    """Returns the header lines that depend on the request, each with its line end, in addition to the provider's."""
