"""An answer as an HTTP response: the same bytes over a raw connection and over ASGI."""

from collections.abc import Mapping, Sequence

from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.domain import Chunk, Chunks, Finished, Started
from pointsman_gateway.http.encoding import Encoder
from pointsman_gateway.http.openai import chat_encoder as answers
from pointsman_gateway.http.openai.chat_encoder import Headers

JSON = (b"content-type", b"application/json")
EVENTS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class HttpAnswer:
    """Implements `AnswerSink`, but for `closed`: encodes one answer; a subclass sends it.

    What fails before the first byte is a response with its own status; what fails later is the stream's last event.
    """

    def __init__(self, encoder: Encoder, streams: bool, extra_headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        self._encoder = encoder
        self._streams = streams
        self._extra_headers = extra_headers
        self._started: Started | None = None
        self._collected: list[Chunk] = []
        """Of an answer that is no stream."""

    def started(self, started: Started) -> None:
        self._started = started
        if self._streams:
            self.send_head([*EVENTS, *self._extra_headers, *_headers(started)])
            self.send_piece(self._encoder.begun(started), more=True)

    def chunks(self, chunks: Chunks, last: bool) -> None:
        if self._streams:
            self.send_piece(self._encoder.chunks(chunks), more=last)
        else:
            self._collected.extend(chunks)

    def finished(self, finished: Finished) -> None:
        if self._streams:
            self.send_end(self._encoder.finished(finished))
            return
        started = self._started
        assert started is not None  # it always comes first
        headers = [JSON, *self._extra_headers, *_headers(started), answers.cost_header(finished.receipt)]
        self.send_whole(200, headers, self._encoder.whole(started, self._collected, finished))

    def failed(self, error: PointsmanError) -> None:
        if self._streams and self._started is not None:
            self.send_end(self._encoder.failed(error))
        else:
            self.send_whole(*error_response(error, self._extra_headers))

    # -- how it is sent

    def send_head(self, headers: Headers) -> None:
        """Of a stream."""
        raise NotImplementedError

    def send_piece(self, piece: bytes, *, more: bool) -> None:
        """Of a stream; `piece` may be empty. `more`: another piece, or the end, follows at once."""
        raise NotImplementedError

    def send_end(self, piece: bytes) -> None:
        """The last piece of a stream."""
        raise NotImplementedError

    def send_whole(self, status: int, headers: Headers, body: bytes) -> None:
        raise NotImplementedError


def _headers(started: Started) -> Headers:
    return [*answers.decision_headers(started), *encoded(started.limit_headers)]


def error_response(error: PointsmanError, extra_headers: Sequence[tuple[bytes, bytes]]) -> tuple[int, Headers, bytes]:
    """Status, headers and body."""
    headers = [JSON, *extra_headers, *encoded(answers.error_headers(error)), *encoded(error.limits)]
    return error.http_status, headers, answers.to_json(answers.error_body(error))


def encoded(headers: Mapping[str, str]) -> Headers:
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
