"""What has been measured, and what follows from it."""

from dataclasses import dataclass, field

from benchmarks.gateway_load import contenders as who
from benchmarks.gateway_load.grpc_calls import Called
from benchmarks.gateway_load.junk import Left
from benchmarks.gateway_load.latency import Waited
from benchmarks.gateway_load.profiling import Profile
from benchmarks.gateway_load.streams import Streamed
from benchmarks.gateway_load.throughput import Measured


@dataclass(slots=True)
class Findings:
    """What has been measured so far."""

    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """Peers and phases that were not measured, and why."""
    rates: dict[str, Measured] = field(default_factory=dict)
    waited: dict[int, dict[str, Waited]] = field(default_factory=dict)
    streams: dict[str, Streamed] = field(default_factory=dict)
    grpc: Called | None = None
    junk: Left | None = None
    profile: Profile | None = None

    def rps(self, name: str) -> float | None:
        return self.rates[name].rps if name in self.rates else None

    def added_ms(self, rate: int, what: str, name: str = who.OURS) -> float | None:
        """Over asking the mock engine directly; `what` is "p50_ms" or "p99_ms"."""
        waited = self.waited.get(rate, {})
        if name not in waited or who.DIRECT not in waited:
            return None
        return float(getattr(waited[name], what) - getattr(waited[who.DIRECT], what))

    def of_direct(self, name: str = who.OURS) -> float | None:
        """Chunks a second of the streams, as a share of direct's."""
        if name not in self.streams or who.DIRECT not in self.streams:
            return None
        return self.streams[name].chunks_per_second / self.streams[who.DIRECT].chunks_per_second

    def first_added_ms(self, name: str = who.OURS) -> float | None:
        if name not in self.streams or who.DIRECT not in self.streams:
            return None
        return self.streams[name].first_ms - self.streams[who.DIRECT].first_ms
