"""Sends HTTP requests as raw bytes, like an attacker."""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tests.security.measuring import connect


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes

    @property
    def code(self) -> Any:
        """The error's code."""
        return json.loads(self.body)["error"]["code"]


def head(method: str, path: str, *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: gateway", "content-type: application/json", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def post(address: str, path: str, body: bytes, *headers: str) -> Answer:
    """Sends the whole body, even if an answer arrives earlier."""
    return exchange(address, [head("POST", path, f"content-length: {len(body)}", *headers), body])


def exchange(address: str, pieces: Iterable[bytes]) -> Answer:
    """Sends the pieces until the gateway stops reading, and then reads its answer."""
    with connect(address) as connection:
        with suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
        return read_answer(connection)


def read_answer(connection: Any) -> Answer:
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536) or cut_off(received)
    top, _, body = received.partition(b"\r\n\r\n")
    lines = [line.partition(b":") for line in top.lower().split(b"\r\n")[1:]]
    length = next(int(value) for name, _, value in lines if name == b"content-length")
    while len(body) < length:
        body += connection.recv(65536) or cut_off(received)
    return Answer(int(top.split()[1]), body[:length])


def cut_off(received: bytes) -> bytes:
    raise AssertionError(f"the gateway closed the connection after {received[:200]!r}")
