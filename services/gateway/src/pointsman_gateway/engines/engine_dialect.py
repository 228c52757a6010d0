"""The interface of engine dialects, the API formats of engines: how requests are written and answers are parsed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pointsman_gateway.config.providers import Endpoint
from pointsman_gateway.domain import Chunks
from pointsman_gateway.engines.engine_client import EngineRequest


class AnswerReader(Protocol):
    """Interface of a parser for one streamed answer in server-sent events.

    `EventReader` (OpenAI's format) and `MessagesReader` (Anthropic's) implement it.
    """

    done: bool
    """Whether the last event has arrived."""
    failure: str
    """Why the stream ended early: it cannot be parsed, or it reports an error. Empty if there is no failure."""
    error: Mapping[str, Any]
    """The "code" and "param" of an error that the stream reports in OpenAI's format; empty otherwise."""

    def read(self, piece: bytes) -> Chunks:
        """Parses the next bytes of the stream; returns the chunks of all events that are complete now, possibly none.

        In the result, the token usage comes last. Sets `done` at the stream's end, and `failure` if the stream
        cannot be parsed or reports an error.
        """
        ...


def _no_lines(request: EngineRequest) -> str:
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDialect:
    """An API format of engines, such as OpenAI's or Anthropic's: how requests are written and answers are parsed."""

    name: str
    """The name by which providers.yaml assigns the format to a provider."""
    to_body: Callable[[EngineRequest, Endpoint], dict[str, Any]]
    """Returns the body of a request, before JSON encoding; raises InvalidArgument if the format cannot express it."""
    reader: Callable[[bool, int], AnswerReader]
    """Makes the reader of one answer. The first argument says whether chunks that arrive together may be joined, the
    second how many choices are expected."""
    header_lines: Callable[[EngineRequest], str] = _no_lines
    """Returns the header lines that depend on the request, each with its line end, in addition to the provider's."""
