"""The bytes of a connection, cut into frames; headers that go on in further ones are put together."""

from collections.abc import Callable

from pointsman_servicekit.grpc_wire import frames
from pointsman_servicekit.grpc_wire.frames import Broken, Code
from pointsman_servicekit.grpc_wire.manners import Manners

Take = Callable[[int, int, int, bytes], None]
"""(kind, flags, stream, payload) of a frame; may raise Broken."""


class Incoming:
    """Frames on their way in."""

    def __init__(self, take: Take, manners: Manners, most: int) -> None:
        """Headers may have `most` bytes, as they travel."""
        self.greeted = False
        """The client has said that it speaks HTTP/2, and how."""
        self._take = take
        self._manners = manners
        self._most = most
        self._held = b""
        self._block: tuple[int, int, bytes] | None = None
        """(stream, flags, headers) so far, of headers that go on."""

    def read(self, data: bytes) -> None:
        """Raises Broken."""
        if self._held:
            data = self._held + data
        at, end = 0, len(data)
        if not self.greeted:
            at = self._greeting(data)
            if not at:
                self._held = data
                return
        while end - at >= frames.HEAD_BYTES:
            high, low, kind, flags, stream = frames.read_head(data, at)
            length = high << 8 | low
            if length > frames.LARGEST_FRAME:
                raise Broken(Code.FRAME_SIZE_ERROR, f"a frame has {length} bytes; at most {frames.LARGEST_FRAME}")
            following = at + frames.HEAD_BYTES + length
            if following > end:
                break
            payload = data[at + frames.HEAD_BYTES : following]
            at = following
            stream &= frames.LARGEST_WINDOW
            if kind == frames.HEADERS or kind == frames.CONTINUATION or self._block is not None:
                self._headers(kind, flags, stream, payload)
            else:
                self._take(kind, flags, stream, payload)
        self._held = data[at:]

    def _greeting(self, data: bytes) -> int:
        """Where it ends; 0 as long as it is not whole."""
        if not frames.PREFACE.startswith(data[: len(frames.PREFACE)]):
            raise Broken(Code.PROTOCOL_ERROR, "this is not HTTP/2")
        end = len(frames.PREFACE)
        if len(data) < end + frames.HEAD_BYTES:
            return 0
        if data[end + 3] != frames.SETTINGS:
            raise Broken(Code.PROTOCOL_ERROR, "settings come first")
        self.greeted = True
        return end

    def _headers(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._block is None:
            if kind != frames.HEADERS:
                raise Broken(Code.PROTOCOL_ERROR, "no headers go on here")
            block = frames.unpadded(flags, payload) if flags & (frames.PADDED | frames.WITH_PRIORITY) else payload
        else:
            begun, before, block = self._block
            if kind != frames.CONTINUATION or stream != begun:
                raise Broken(Code.PROTOCOL_ERROR, "headers are interrupted")
            if not payload:
                self._manners.brought_nothing()
            flags, block = before | flags & frames.END_HEADERS, block + payload
        if flags & frames.END_HEADERS:
            self._block = None
            self._take(frames.HEADERS, flags, stream, block)
        elif len(block) > self._most:
            raise Broken(Code.ENHANCE_YOUR_CALM, "headers do not end")
        else:
            self._block = stream, flags, block
