"""gRPC's messages in the bytes of a stream: a flag, a length, and what may be compressed."""

import zlib
from struct import Struct

from grpc import StatusCode

_PREFIX = Struct(">BL")
PREFIX_BYTES = _PREFIX.size
_WINDOW_BITS = {"gzip": 31, "deflate": 15}
ACCEPTED = ("identity", *_WINDOW_BITS)


Raw = tuple[int, bytes]
"""Whether it is compressed, and the message."""


class BadMessage(Exception):
    """What came is no message, or none that is taken."""

    def __init__(self, status: StatusCode, why: str) -> None:
        super().__init__(why)
        self.status = status


def with_prefix(message: bytes) -> bytes:
    return _PREFIX.pack(0, len(message)) + message


class MessageReader:
    """Cuts one stream into messages."""

    __slots__ = ("_encoding", "_held", "_most", "_wanted")

    def __init__(self, encoding: str, most: int) -> None:
        """Messages may be compressed with `encoding`, and have `most` bytes when they are not any more."""
        self._encoding = encoding
        self._most = most
        self._held = bytearray()
        self._wanted = 0
        """Bytes that must be held until there is anything to read."""

    @property
    def unfinished(self) -> bool:
        """Whether a part of a message is there."""
        return bool(self._held)

    def read(self, data: bytes) -> list[Raw]:
        """The messages that are whole now. Raises BadMessage."""
        held = self._held
        if held:
            held += data
            if len(held) < self._wanted:
                return []
            data = bytes(held)
            held.clear()
        messages: list[Raw] = []
        at, end = 0, len(data)
        while end - at >= PREFIX_BYTES:
            compressed, length = _PREFIX.unpack_from(data, at)
            if length > self._most:
                raise _too_long(length, self._most)
            following = at + PREFIX_BYTES + length
            if following > end:
                self._wanted = following - at
                break
            message = data[at + PREFIX_BYTES : following]
            messages.append((compressed, message))
            at = following
        else:
            self._wanted = PREFIX_BYTES
        if at < end:
            held += data[at:]
        return messages

    def inflated(self, raw: Raw) -> bytes:
        """Only once it is wanted: little that is compressed may be much. Raises BadMessage."""
        flag, message = raw
        if not flag:
            return message
        bits = _WINDOW_BITS.get(self._encoding)
        if bits is None:
            told = f"a message is compressed with '{self._encoding}'; one of {', '.join(ACCEPTED)} is read"
            status = StatusCode.INTERNAL if self._encoding == ACCEPTED[0] else StatusCode.UNIMPLEMENTED
            raise BadMessage(status, told)
        inflating = zlib.decompressobj(bits)
        try:
            inflated = inflating.decompress(message, self._most + 1)
        except zlib.error as error:
            raise BadMessage(StatusCode.INTERNAL, f"a message cannot be decompressed: {error}") from None
        if len(inflated) > self._most:
            raise _too_long(len(inflated), self._most)
        if not inflating.eof:
            raise BadMessage(StatusCode.INTERNAL, "a compressed message is cut off")
        return inflated


def _too_long(length: int, most: int) -> BadMessage:
    return BadMessage(StatusCode.RESOURCE_EXHAUSTED, f"a message has {length} bytes or more; at most {most}")
