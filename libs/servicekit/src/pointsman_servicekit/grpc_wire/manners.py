"""What a client may do, but not all the time: HTTP/2's known floods, each with its bound."""

from pointsman_servicekit.grpc_server import ServerLimits
from pointsman_servicekit.grpc_wire.frames import Broken, Code

MOST_IDLE_FRAMES = 1_000
"""Frames in a row that bring nothing."""
MOST_RESETS = 8
"""So many times the most streams may be taken back between two sweeps."""
MOST_PING_STRIKES = 2


class Manners:
    """Of one client."""

    def __init__(self, limits: ServerLimits) -> None:
        self._limits = limits
        self._idle_frames = 0
        self._resets = 0
        self._pinged = 0.0
        self._strikes = 0

    def brought_nothing(self) -> None:
        """Raises Broken."""
        self._idle_frames += 1
        if self._idle_frames > MOST_IDLE_FRAMES:
            raise Broken(Code.ENHANCE_YOUR_CALM, "too many frames bring nothing")

    def brought_something(self) -> None:
        self._idle_frames = 0

    def took_back(self) -> None:
        """A call that was still answered. Raises Broken."""
        self._resets += 1
        if self._resets > MOST_RESETS * self._limits.streams:
            raise Broken(Code.ENHANCE_YOUR_CALM, "too many calls are taken back at once")

    def pinged(self, now: float, answered: bool) -> None:
        """`answered`: a part of an answer was said since the last time; clients measure how fast that comes. Raises
        Broken."""
        if answered:
            self._strikes = 0
        if now - self._pinged < self._limits.ping_seconds:
            self._strikes += 1
            if self._strikes > MOST_PING_STRIKES:
                raise Broken(Code.ENHANCE_YOUR_CALM, "too_many_pings")
        self._pinged = now

    def sweep(self) -> None:
        self._resets = 0
