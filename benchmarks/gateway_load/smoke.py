"""A short run with wide bounds for ratios of figures of the same run. It detects changes that cost much."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.gateway_load import contenders
from benchmarks.gateway_load.findings import Findings, relative_to_direct

PHASES = ("rps", "auto", "streams", "streams1000", "grpc")
PEERS = (contenders.NGINX,)

MAX_CPU_OF_NGINX = 40.0
MIN_AUTO_OF_NAMED = 0.35
MIN_CHUNKS_OF_DIRECT = 0.8
MAX_GRPC_OF_EMPTY = {"Generate": 5.0, "GenerateStream": 4.0}


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    figure: float | None
    """The measured figure; None if it was not measured, which counts as a failure."""
    bound: float
    is_minimum: bool

    @property
    def holds(self) -> bool:
        if self.figure is None:
            return False
        return self.figure >= self.bound if self.is_minimum else self.figure <= self.bound

    def __str__(self) -> str:
        figure = "not measured" if self.figure is None else f"{self.figure:.2f}"
        return f"{self.name}: {figure}, at {'least' if self.is_minimum else 'most'} {self.bound:g}"


def checks(found: Findings) -> list[Check]:
    return [*_of_requests(found), *_of_streams(found), *_of_grpc(found)]


def _of_requests(found: Findings) -> Iterator[Check]:
    ours, nginx = (found.rates.get(name) for name in (contenders.OURS, contenders.NGINX))
    ratio = ours.cpu_us / nginx.cpu_us if ours and nginx and nginx.cpu_us else None
    yield Check("processor time of a request, of nginx's", ratio, MAX_CPU_OF_NGINX, is_minimum=False)
    named, auto = found.rps(contenders.OURS), found.rps(contenders.OURS_AUTO)
    yield Check("auto, of a named path", auto / named if auto and named else None, MIN_AUTO_OF_NAMED, is_minimum=True)
    failed = sum(one.failed for name, one in found.rates.items() if name in (contenders.OURS, contenders.OURS_AUTO))
    yield Check("failed requests", float(failed) if ours else None, 0, is_minimum=False)


def _of_streams(found: Findings) -> Iterator[Check]:
    for count, streams in (("256", found.streams), ("1,000", found.streams1000)):
        ours = streams.get(contenders.OURS)
        share = relative_to_direct(streams)
        yield Check(f"{count} streams, chunks of direct's", share, MIN_CHUNKS_OF_DIRECT, is_minimum=True)
        lost = float(ours.stalled + ours.incomplete + ours.refused) if ours else None
        yield Check(f"{count} streams, stalled, incomplete or refused", lost, 0, is_minimum=False)


def _of_grpc(found: Findings) -> Iterator[Check]:
    for method, bound in MAX_GRPC_OF_EMPTY.items():
        ratio = found.grpc[method].ratio if method in found.grpc else None
        yield Check(f"gRPC {method}, of an empty server's", ratio, bound, is_minimum=False)
