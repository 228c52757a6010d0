"""The benchmark's targets, and whether the results meet them."""

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.gateway_load import contenders
from benchmarks.gateway_load.findings import Findings, first_added_ms, relative_to_direct
from benchmarks.gateway_load.streams import StreamStatistics


@dataclass(frozen=True, slots=True)
class Target:
    """A figure with a lower or upper bound."""

    name: str
    figure: float
    met: bool


GRPC_CPU_US = {"Generate": 550.0, "GenerateStream": 850.0}

Figures = Iterator[tuple[str, float | None, float]]
"""Yields a description, the measured value (None if not measured), and the bound of each figure."""


def check_targets(found: Findings) -> list[Target]:
    """Returns the targets whose figures were measured, with the figures."""
    return [*_check(_minimums(found), "at least", operator.ge), *_check(_maximums(found), "at most", operator.le)]


def _check(figures: Figures, wording: str, compare: Callable[[float, float], bool]) -> Iterator[Target]:
    for name, figure, bound in figures:
        if figure is not None:
            yield Target(f"{name}, {wording} {bound:,g}", figure, compare(figure, bound))


def _minimums(found: Findings) -> Figures:
    named, auto = found.rps(contenders.OURS), found.rps(contenders.OURS_AUTO)
    router, router_default = found.rps(contenders.VLLM_ROUTER), found.rps(contenders.VLLM_ROUTER_DEFAULT)
    yield "named path, relative to vllm-router", _ratio(named, router), 1.0
    yield "named path, relative to vllm-router with its defaults", _ratio(named, router_default), 1.0
    yield "named path, relative to LiteLLM", _ratio(named, found.rps(contenders.LITELLM)), 50
    yield "auto, relative to vllm-router", _ratio(auto, router), 0.6
    yield "auto, relative to vllm-router with its defaults", _ratio(auto, router_default), 0.6
    yield "two workers on two cores, relative to one", found.workers2_ratio(), 1.7
    yield "256 streams, chunks/s relative to direct", relative_to_direct(found.streams), 0.9
    for name in (contenders.OURS, contenders.OURS_OPEN):
        yield f"1,000 streams, {name}, chunks/s relative to direct", relative_to_direct(found.streams1000, name), 0.9
    for method in found.grpc.keys() & {"Generate"}:
        yield f"gRPC {method}, calls/s", found.grpc[method].ours.per_second, 2000


def _maximums(found: Findings) -> Figures:
    for rate in found.latencies:
        yield f"added p50 ms at {rate}/s", found.added_ms(rate, "p50_ms"), 0.6
        yield f"added p99 ms at {rate}/s", found.added_ms(rate, "p99_ms"), 3.0
    yield "256 streams, first chunk added p50 ms", first_added_ms(found.streams), 30
    router = first_added_ms(found.streams1000, contenders.VLLM_ROUTER)
    for name in (contenders.OURS, contenders.OURS_OPEN):
        if router is not None:
            yield (
                f"1,000 streams, {name}, first chunk added p50 ms (vllm-router's and 30)",
                first_added_ms(found.streams1000, name),
                router + 30,
            )
    for count, streams in (("256", found.streams), ("1,000", found.streams1000)):
        for name in streams.keys() & {contenders.OURS, contenders.OURS_OPEN}:
            yield f"{count} streams, {name}, stalled or incomplete", _lost(streams[name]), 0
    for method, bound in GRPC_CPU_US.items():
        if method in found.grpc:
            yield f"gRPC {method}, processor us", found.grpc[method].ours.cpu_us, bound
    if found.junk:
        yield "unknown names, additional series", found.junk.after_all - found.junk.after_first, 0


def _lost(one: StreamStatistics) -> int:
    return one.stalled + one.incomplete


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None
