"""How a complete answer is written to its connection: a large body is not copied, a small one takes one write."""

import pytest
from pointsman_gateway.codec.headers import Headers
from pointsman_gateway.http.dialects.openai.chat_encoder import ChatEncoder
from pointsman_gateway.http.sinks import MAX_JOINED_BYTES, ConnectionSink


class Written:
    """Implements `Connection`, and the part of its transport that a sink calls; records what is written."""

    default_headers: Headers = ((b"server", b"test"),)  # type: ignore[assignment]  # never changed

    def __init__(self) -> None:
        self.transport = self
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def is_closing(self) -> bool:
        return False

    def end_request(self, *, close: bool = False) -> None:
        pass


def written(body: bytes) -> list[bytes]:
    connection = Written()
    sink = ConnectionSink(connection, 0.0, ChatEncoder(include_usage=False), streams=False, request_id="r")  # type: ignore[arg-type]
    sink.send_whole(200, [(b"content-type", b"application/json")], body)
    return connection.writes


@pytest.mark.parametrize("size", [0, 2, MAX_JOINED_BYTES, MAX_JOINED_BYTES + 1, 1_000_000])
def test_the_bytes_do_not_depend_on_the_size(size: int) -> None:
    body = b"a" * size
    head, _, sent = b"".join(written(body)).partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 200 OK", b"server: test", b"content-type: application/json", b"content-length: %d" % size,
    ]  # fmt: skip
    assert sent == body


def test_a_small_body_is_written_together_with_its_head() -> None:
    assert len(written(b"{}")) == 1


def test_a_large_body_is_not_copied() -> None:
    body = b"a" * (MAX_JOINED_BYTES + 1)
    assert written(body)[-1] is body
