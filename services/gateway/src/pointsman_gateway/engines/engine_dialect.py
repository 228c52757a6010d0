"""The interface of engine dialects: how requests to an engine are written, and how its answers are parsed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pointsman_gateway.config.providers import Endpoint
from pointsman_gateway.domain import Chunks
from pointsman_gateway.engines.engine_client import EngineRequest


class AnswerReader(Protocol):
    """Parses one answer, a stream of server-sent events, piece by piece."""

    done: bool
    """Whether the last event has arrived."""
    failure: str
    """Why the stream ended early: it cannot be read, or it holds an error of the engine."""
    error: Mapping[str, Any]
    """The code and the parameter of the engine's error, as far as its API has them."""

    def read(self, piece: bytes) -> Chunks:
        """Returns the chunks of all events that end in this piece, possibly none; the usage comes last.

        If the stream cannot be parsed, sets `failure`.
        """
        ...


def _no_lines(request: EngineRequest) -> str:
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDialect:
    """The format of requests to engines, and of their answers. Providers name it in providers.yaml."""

    name: str
    to_body: Callable[[EngineRequest, Endpoint], dict[str, Any]]
    """Returns the body of a request; raises InvalidArgument if it cannot be expressed there."""
    reader: Callable[[bool, int], AnswerReader]
    """Makes the reader of one answer. The first argument says whether chunks that arrive together may be joined, the
    second how many choices are expected."""
    header_lines: Callable[[EngineRequest], str] = _no_lines
    """Returns the header lines that depend on the request, in addition to those of the provider."""
