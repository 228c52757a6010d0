"""What a call says before its first message, and what is said around its answer: gRPC's headers within HTTP/2's."""

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import grpc
from hpack import Decoder, HPACKError

from pointsman_servicekit.grpc_wire.frames import Broken, Code
from pointsman_servicekit.grpc_wire.messages import ACCEPTED

Metadata = tuple[tuple[str, str | bytes], ...]

PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path"))
"""Of a request (RFC 9113, 8.3.1)."""
LONGEST_REMEMBERED = 1024
MOST_REMEMBERED = 64
ENTRY_BYTES = 32
"""That a header counts for beyond its name and its value (RFC 9113, 6.5.2)."""
MOST_TIMES_TOO_LARGE = 4
"""So much more than is taken is still read, so that the call alone is refused and not its connection."""

_SECONDS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


class BadHead(Exception):
    """A call that is none of gRPC's, or none of HTTP/2's."""


class BadValue(Exception):
    """What a call says of itself cannot be read; it is a call all the same."""


@dataclass(frozen=True, slots=True)
class Head:
    """How a call begins."""

    path: str
    timeout: float | None
    """Seconds."""
    encoding: str
    """What its messages may be compressed with."""
    metadata: Metadata
    size: int
    """Bytes, as HTTP/2 counts headers."""
    fault: str = ""
    """Why it cannot be served."""


class HeadReader:
    """Reads the header blocks of one connection.

    A client mostly says the same again, in the same bytes. What they mean depends on the table that both sides keep
    (RFC 7541); so what a block meant is remembered until a block changes the table.
    """

    def __init__(self, most: int) -> None:
        """`most` bytes are taken; whoever calls looks at what is larger."""
        self._most = most
        self._decoder = Decoder(max_header_list_size=most * MOST_TIMES_TOO_LARGE)
        self._remembered: dict[bytes, Head] = {}

    def read(self, block: bytes) -> Head:
        """Raises BadHead, or Broken where later blocks cannot be read either."""
        return self._remembered.get(block) or self._read(block)

    def _read(self, block: bytes) -> Head:
        before = self._table()
        try:
            headers = self._decoder.decode(block, raw=True)
        except HPACKError:  # it may quote them, and a key among them
            raise Broken(Code.COMPRESSION_ERROR, "headers cannot be read") from None
        now = self._table()
        # An entry is a tuple of its own: were it another's, it would be another object.
        if before[0] is not now[0] or before[1:] != now[1:]:
            self._remembered.clear()
            return head_of(headers)
        head = head_of(headers)
        if len(block) <= LONGEST_REMEMBERED and head.size <= self._most:
            if len(self._remembered) >= MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[block] = head
        return head

    def _table(self) -> tuple[object, int, int]:
        """The newest entry; how many there are; how large they may be."""
        entries = self._decoder.header_table.dynamic_entries
        return entries[0] if entries else None, len(entries), self._decoder.header_table_size


def head_of(headers: Iterable[tuple[bytes, bytes]]) -> Head:
    """Raises BadHead."""
    pseudo: dict[bytes, bytes] = {}
    metadata: list[tuple[str, str | bytes]] = []
    content_type, timeout, encoding, size, fault = b"", None, "identity", 0, ""
    for name, value in headers:
        size += len(name) + len(value) + ENTRY_BYTES
        if name[:1] == b":":
            if name not in PSEUDO or name in pseudo or metadata:
                raise BadHead(f"{name.decode('latin-1')} is unknown, stands twice, or behind other headers")
            pseudo[name] = value
        elif name == b"content-type":
            content_type = value
        elif name == b"grpc-timeout":
            timeout = _timeout(value)
            if timeout is None:
                fault = "grpc-timeout has up to eight digits and one of H, M, S, m, u, n"
        elif name == b"grpc-encoding":
            encoding = value.decode("latin-1")
        elif name != b"te" and not name.startswith(b"grpc-"):
            try:
                metadata += _entries(name, value)
            except BadValue as bad:
                fault = str(bad)
    if pseudo.get(b":method") != b"POST" or not content_type.startswith(b"application/grpc"):
        raise BadHead("a call is a POST of application/grpc")
    path = pseudo.get(b":path", b"").decode("latin-1")
    return Head(path, timeout, encoding, tuple(metadata), size, fault)


def _timeout(value: bytes) -> float | None:
    """Seconds; None where it is none."""
    digits, unit = value[:-1], value[-1:].decode("latin-1")
    if not 1 <= len(digits) <= 8 or not digits.isdigit() or unit not in _SECONDS:
        return None
    return int(digits) * _SECONDS[unit]


def _entries(name: bytes, value: bytes) -> Iterable[tuple[str, str | bytes]]:
    """Binary values are in base64, and may be several."""
    key = name.decode("latin-1")
    if not key or key.lower() != key:
        raise BadHead("names of headers are in lower case")
    if not key.endswith("-bin"):
        return ((key, value.decode("latin-1")),)
    try:
        return [(key, base64.b64decode(each + b"=" * (-len(each) % 4), validate=True)) for each in value.split(b",")]
    except binascii.Error:
        raise BadValue(f"{key} is not in base64") from None


# -- what we say. Nothing of it goes into the other side's table: so each block means the same, whenever it is sent.

_STATUS_200 = b"\x88"
"""`:status: 200` of HPACK's static table."""


def _length(length: int) -> bytes:
    """An integer with a prefix of seven bits (RFC 7541, 5.1)."""
    if length < 127:
        return bytes((length,))
    written, length = bytearray((127,)), length - 127
    while length >= 128:
        written.append(length & 127 | 128)
        length >>= 7
    written.append(length)
    return bytes(written)


@lru_cache(maxsize=256)
def _name(name: str) -> bytes:
    return b"\x00" + _length(len(name)) + name.encode("ascii")


def block_of(metadata: Iterable[tuple[str, str | bytes]]) -> bytes:
    """Raises ValueError where a name or a text is not of printable ASCII."""
    written: list[bytes] = []
    for name, value in metadata:
        if name.endswith("-bin"):
            raw = value.encode() if isinstance(value, str) else value
            value = base64.b64encode(raw).rstrip(b"=")
        elif isinstance(value, str):
            if not (value.isascii() and value.isprintable()):
                raise ValueError(f"what {name} says is not of printable ASCII; a name that ends with -bin takes all")
            value = value.encode("ascii")
        written += (_name(name), _length(len(value)), value)
    return b"".join(written)


BEGINNING = _STATUS_200 + block_of((("content-type", "application/grpc"), ("grpc-accept-encoding", ",".join(ACCEPTED))))
"""Of every answer."""
NOT_GRPC = block_of(((":status", "415"), ("content-length", "0")))
"""For whoever does not speak gRPC; ends the stream."""
OK = block_of((("grpc-status", "0"),))


def status_block(code: grpc.StatusCode, details: str) -> bytes:
    """How a call ends."""
    return block_of((("grpc-status", str(code.value[0])), ("grpc-message", _percent_encoded(details))))


def _percent_encoded(message: str) -> str:
    """As `grpc-message` is written."""
    return "".join(
        [chr(b) if 0x20 <= b <= 0x7E and b != 0x25 else f"%{b:02X}" for b in message.encode("utf-8", "replace")]
    )
