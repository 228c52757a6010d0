"""The frames of HTTP/2 (RFC 9113, sections 4 and 6): their names, and how they are written."""

from enum import IntEnum
from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = ACK = 0x01
END_HEADERS = 0x04
PADDED = 0x08
WITH_PRIORITY = 0x20

INITIAL_WINDOW = 65_535
"""Bytes, until the other side says otherwise; of the whole connection always at first."""
LARGEST_WINDOW = 2**31 - 1
LARGEST_FRAME = 16_384
"""Bytes of a payload, until the other side says otherwise; we never do."""
HEADER_TABLE = 4_096
"""Bytes of the table that headers may refer to, until the other side says otherwise."""
HEAD_BYTES = 9


class Setting(IntEnum):
    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Code(IntEnum):
    """Why a stream or a connection ends."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Broken(Exception):
    """The connection cannot go on."""

    def __init__(self, code: Code, why: str) -> None:
        super().__init__(why)
        self.code = code


read_head = Struct(">HBBBL").unpack_from
"""(length / 256, length % 256, kind, flags, stream) of a frame; the stream's first bit is reserved."""
_head = Struct(">HBBBL").pack
_setting = Struct(">HL")
_long = Struct(">L")


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    length = len(payload)
    return _head(length >> 8, length & 0xFF, kind, flags, stream) + payload


def settings(values: dict[Setting, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join([_setting.pack(name, value) for name, value in values.items()]))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Raises Broken."""
    if len(payload) % _setting.size:
        raise Broken(Code.FRAME_SIZE_ERROR, "SETTINGS are cut off")
    return list(_setting.iter_unpack(payload))


def window_update(stream: int, more: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, _long.pack(more))


def reset(stream: int, code: Code) -> bytes:
    return frame(RST_STREAM, 0, stream, _long.pack(code))


def goaway(last: int, code: Code, why: str = "") -> bytes:
    return frame(GOAWAY, 0, 0, _long.pack(last) + _long.pack(code) + why.encode())


def number(payload: bytes, what: str) -> int:
    """Of a frame that holds one of 32 bits. Raises Broken."""
    if len(payload) != _long.size:
        raise Broken(Code.FRAME_SIZE_ERROR, f"{what} has {len(payload)} bytes; 4")
    read: int = _long.unpack(payload)[0]
    return read


def unpadded(flags: int, payload: bytes) -> bytes:
    """Without padding, and without a priority, which nobody heeds. Raises Broken."""
    begin, end = 0, len(payload)
    if flags & PADDED:
        if not payload:
            raise Broken(Code.FRAME_SIZE_ERROR, "padding without its length")
        begin, end = 1, end - payload[0]
    if flags & WITH_PRIORITY:
        begin += 5
    if begin > end:
        raise Broken(Code.PROTOCOL_ERROR, "more padding than payload")
    return payload[begin:end]
