"""How one answer is written in one dialect of HTTP: each of OpenAI's endpoints has an encoder of its own."""

from collections.abc import Sequence
from typing import Protocol

from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.domain import Chunk, Chunks, Finished, Started


class Encoder(Protocol):
    """Writes one answer: as a stream (`begun`, `chunks`..., then `finished` or `failed`), or as a whole.

    Everything but `whole` returns server-sent events, complete with their blank lines; there may be none.
    """

    def begun(self, started: Started) -> bytes:
        """What is sent before the first chunk."""
        ...

    def chunks(self, chunks: Chunks) -> bytes:
        """On the hot path: once for each read from an engine."""
        ...

    def finished(self, finished: Finished) -> bytes:
        """What ends a stream that came to its end ("data: [DONE]" in most dialects)."""
        ...

    def failed(self, error: PointsmanError) -> bytes:
        """What ends a stream that broke off."""
        ...

    def whole(self, started: Started, chunks: Sequence[Chunk], finished: Finished) -> bytes:
        """The body of a plain answer, in JSON."""
        ...
