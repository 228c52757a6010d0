"""What must be reached, beside what was."""

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.gateway_load import contenders as who
from benchmarks.gateway_load.findings import Findings


@dataclass(frozen=True, slots=True)
class Aim:
    """A figure that must be at least, or at most, so much."""

    name: str
    figure: float
    reached: bool


Figures = Iterator[tuple[str, float | None, float]]
"""What it is, what was measured if it was, and its bound."""


def aims(found: Findings) -> list[Aim]:
    """Those whose figures were measured."""
    return [*_held(_least(found), "at least", operator.ge), *_held(_most(found), "at most", operator.le)]


def _held(figures: Figures, words: str, holds: Callable[[float, float], bool]) -> Iterator[Aim]:
    for name, figure, bound in figures:
        if figure is not None:
            yield Aim(f"{name}, {words} {bound:,g}", figure, holds(figure, bound))


def _least(found: Findings) -> Figures:
    named, auto = found.rps(who.OURS), found.rps(who.OURS_AUTO)
    yield "path named, of vllm-router", _ratio(named, found.rps(who.VLLM_ROUTER)), 1.0
    yield "path named, of vllm-router as it comes", _ratio(named, found.rps(who.VLLM_ROUTER_DEFAULT)), 1.0
    yield "path named, of LiteLLM", _ratio(named, found.rps(who.LITELLM)), 50
    yield "auto, of vllm-router", _ratio(auto, found.rps(who.VLLM_ROUTER)), 0.6
    yield "auto, of vllm-router as it comes", _ratio(auto, found.rps(who.VLLM_ROUTER_DEFAULT)), 0.6
    yield "256 streams, chunks/s of direct", found.of_direct(), 0.9
    if found.grpc:
        yield f"gRPC {found.grpc.method}, calls/s", found.grpc.per_second, 2000


def _most(found: Findings) -> Figures:
    for rate in found.waited:
        yield f"added p50 ms at {rate}/s", found.added_ms(rate, "p50_ms"), 0.6
        yield f"added p99 ms at {rate}/s", found.added_ms(rate, "p99_ms"), 3.0
    yield "256 streams, first chunk added p50 ms", found.first_added_ms(), 30
    if who.OURS in found.streams:
        ours = found.streams[who.OURS]
        yield "256 streams, stalled or incomplete", ours.stalled + ours.incomplete, 0
    if found.junk:
        yield "junk names, series more", found.junk.after_all - found.junk.after_first, 0


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None
