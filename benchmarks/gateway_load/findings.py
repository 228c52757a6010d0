"""The results of all measurements, and figures derived from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.gateway_load import contenders
from benchmarks.gateway_load.grpc_calls import MethodStatistics
from benchmarks.gateway_load.junk import JunkResult
from benchmarks.gateway_load.latency import Latency
from benchmarks.gateway_load.profiling import Profile
from benchmarks.gateway_load.streams import StreamStatistics
from benchmarks.gateway_load.throughput import Throughput


@dataclass(slots=True)
class Findings:
    """All results so far."""

    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """The reason for each peer and phase that was not measured."""
    rates: dict[str, Throughput] = field(default_factory=dict)
    latencies: dict[int, dict[str, Latency]] = field(default_factory=dict)
    streams: dict[str, StreamStatistics] = field(default_factory=dict)
    """By contender, the statistics of 256 streams at once."""
    streams1000: dict[str, StreamStatistics] = field(default_factory=dict)
    """By contender, the statistics of 1,000 streams at once, each a quarter as fast."""
    grpc: Mapping[str, MethodStatistics] = field(default_factory=dict)
    """By gRPC method, its statistics."""
    junk: JunkResult | None = None
    workers: dict[str, Throughput] = field(default_factory=dict)
    """By contender and number of processes, such as "nginx 2", its throughput."""
    profile: Profile | None = None

    def rps(self, name: str) -> float | None:
        return self.rates[name].rps if name in self.rates else None

    def added_ms(self, rate: int, what: str, name: str = contenders.OURS) -> float | None:
        """Returns by how many milliseconds latency exceeds that of direct requests to the mock engine; `what` is
        "p50_ms" or "p99_ms".
        """
        waited = self.latencies.get(rate, {})
        if name not in waited or contenders.DIRECT not in waited:
            return None
        return float(getattr(waited[name], what) - getattr(waited[contenders.DIRECT], what))

    def workers2_ratio(self, name: str = contenders.OURS) -> float | None:
        """Returns the requests per second of two processes, divided by those of one."""
        one, two = (self.workers.get(f"{name}, {count}") for count in (1, 2))
        return two.rps / one.rps if one and two and one.rps else None


def relative_to_direct(streams: Mapping[str, StreamStatistics], name: str = contenders.OURS) -> float | None:
    """Returns the chunks per second through a contender as a share of those without a gateway."""
    if name not in streams or contenders.DIRECT not in streams:
        return None
    return streams[name].chunks_per_second / streams[contenders.DIRECT].chunks_per_second


def first_added_ms(streams: Mapping[str, StreamStatistics], name: str = contenders.OURS) -> float | None:
    """Returns by how many milliseconds the median time to the first chunk exceeds that without a gateway."""
    if name not in streams or contenders.DIRECT not in streams:
        return None
    return streams[name].first_ms - streams[contenders.DIRECT].first_ms
