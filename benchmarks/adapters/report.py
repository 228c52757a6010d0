"""Formats the tables, the comparison with the targets, and the JSON summary."""

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import median

from benchmarks.adapters.promotion import PromotionResult
from benchmarks.adapters.registry_scale import SERVERS, RegistrySize
from benchmarks.adapters.swap import Gaps, SwapResult
from benchmarks.adapters.verdicts import Verdict
from benchmarks.adapters.zipf import BATCH, CLIENTS, EXPONENT, ColdLoadResult, ZipfResult
from benchmarks.gateway_load.report import table

MAX_EXAMPLES = 5


@dataclass(slots=True)
class Findings:
    """All results so far."""

    swap: SwapResult | None = None
    promotion: PromotionResult | None = None
    zipf: ZipfResult | None = None
    zipf_256: ZipfResult | None = None
    kernels: dict[str, float] = field(default_factory=dict)
    registry: list[RegistrySize] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """The reason for each part that could not be measured."""

    def _growth(self, operation: str) -> float | None:
        """Returns the time of an operation with the most versions, relative to that with the fewest."""
        sizes = self.registry
        return getattr(sizes[-1], operation) / getattr(sizes[0], operation) if sizes else None

    @property
    def figures(self) -> dict[str, float | None]:
        swapped, promoted, zipfed, many = self.swap, self.promotion, self.zipf, self.zipf_256
        cold = zipfed.cold if zipfed else None
        return {
            "swap_failed": swapped.verdict.failed if swapped else None,
            "swap_wrong_tokens": swapped.verdict.wrong_tokens if swapped else None,
            "swap_gap_p99_ratio": swapped.gap_ratio if swapped else None,
            "moving_rate_ratio": swapped.rate_ratio if swapped else None,
            "registrations_per_minute": swapped.registrations_per_minute if swapped else None,
            "decode_ratio": self.kernels.get("decode_ratio"),
            "prefill_ratio": self.kernels.get("prefill_ratio"),
            "promote_ms": promoted.worst if promoted else None,
            "first_token_ratio": promoted.ratio if promoted else None,
            "zipf_failed": zipfed.verdict.failed if zipfed else None,
            "zipf_wrong_tokens": zipfed.verdict.wrong_tokens if zipfed else None,
            "zipf_hit_ratio": zipfed.hit_ratio if zipfed else None,
            "zipf_rps_ratio": zipfed.rate_ratio if zipfed else None,
            "zipf_first_p95_ratio": zipfed.first_p95_ratio if zipfed else None,
            "zipf256_rps_ratio": many.rate_ratio if many else None,
            "zipf256_first_p95_ratio": many.first_p95_ratio if many else None,
            "cold_first_s": cold.p50 if cold else None,
            "cold_gap_p99_ratio": cold.gap_ratio if cold else None,
            "registry_register_ratio": self._growth("register_ms"),
            "registry_watch_ratio": self._growth("watch_ms"),
            "registry_publish_ratio": self._growth("publish_ms"),
        }


TARGETS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "swap_failed": ("0", lambda figure: figure == 0),
    "swap_wrong_tokens": ("0", lambda figure: figure == 0),
    "swap_gap_p99_ratio": ("at most 1.8", lambda figure: figure <= 1.8),
    "decode_ratio": ("at least 0.7", lambda figure: figure >= 0.7),
    "prefill_ratio": ("at least 0.8", lambda figure: figure >= 0.8),
    "promote_ms": ("at most 100", lambda figure: figure <= 100),
    "first_token_ratio": ("at most 1.2", lambda figure: figure <= 1.2),
    "moving_rate_ratio": ("at least 0.88", lambda figure: figure >= 0.88),
    "registrations_per_minute": ("at least 2", lambda figure: figure >= 2),
    "zipf_failed": ("0", lambda figure: figure == 0),
    "zipf_wrong_tokens": ("0", lambda figure: figure == 0),
    "zipf_rps_ratio": ("at least 0.9", lambda figure: figure >= 0.9),
    "zipf_first_p95_ratio": ("at most 1.3", lambda figure: figure <= 1.3),
    "zipf256_rps_ratio": ("at least 0.9", lambda figure: figure >= 0.9),
    "zipf256_first_p95_ratio": ("at most 1.3", lambda figure: figure <= 1.3),
    "cold_first_s": ("at most 2", lambda figure: figure <= 2),
    "cold_gap_p99_ratio": ("at most 2", lambda figure: figure <= 2),
    "registry_register_ratio": ("at most 2", lambda figure: figure <= 2),
    "registry_watch_ratio": ("at most 2", lambda figure: figure <= 2),
}


def format_report(found: Findings) -> str:
    parts = [
        _format_swap(found.swap),
        _format_promotion(found.promotion),
        _format_zipf(found.zipf),
        _format_zipf(found.zipf_256),
    ]
    parts += [_format_kernels(found.kernels), _format_registry(found.registry)]
    if found.failed:
        parts.append("Not measured:\n" + "\n".join(f"  {name}: {why}" for name, why in found.failed.items()))
    figures = found.figures
    rows = [
        [name, f"{figures[name]:,.3f}", bound, "met" if holds(figures[name] or 0.0) else "NOT met"]
        for name, (bound, holds) in TARGETS.items()
        if figures[name] is not None
    ]
    parts.append(table(["target", "figure", "required", ""], rows))
    return "\n\n".join(part for part in parts if part) + "\n" + json.dumps(json_summary(found))


def json_summary(found: Findings) -> dict[str, float | None]:
    """Returns the figures for other programs; None for those that were not measured or are not finite."""
    return {
        name: round(figure, 3) if figure is not None and math.isfinite(figure) else None
        for name, figure in found.figures.items()
    }


def _format_swap(found: SwapResult | None) -> str:
    if found is None:
        return ""
    load = table(
        [f"16 streams, base and 3 adapters, {found.batch} per batch", "tokens/s", "gap p50 ms", "p99 ms", "max ms"],
        [_gaps("without changes", found.calm), _gaps("an alias or version changes every 2 s", found.moving)],
    )
    moves = table(
        ["move", "done", "p50 s", "max s"],
        [
            [kind, str(len(took)), f"{median(took):.2f}", f"{max(took):.2f}"]
            for kind, took in found.moves.seconds.items()
        ],
    )
    parts = [load, moves, _format_verdict(found.verdict)]
    parts.append(f"Each adapter prefers each of its tokens by {found.min_margin_nats:.1f} nats or more.")
    parts += [_format_count("Turns without a move, because all adapters were busy", found.moves.skipped)]
    parts += [_format_count("Calls without an answer at the end", found.moves.unanswered)]
    parts += [f"Refused, {count} times: {words}" for words, count in found.moves.refused.items()]
    return "\n\n".join(part for part in parts if part)


def _gaps(name: str, gaps: Gaps) -> list[str]:
    return [name, f"{gaps.tokens_per_second:,.0f}", f"{gaps.p50:.0f}", f"{gaps.p99:.0f}", f"{gaps.longest:.0f}"]


def _format_verdict(verdict: Verdict) -> str:
    by = ", ".join(f"{model or 'no model'} {count}" for model, count in sorted(Counter(verdict.by_model).items()))
    parts = [
        f"{verdict.answers:,} answers, {verdict.tokens:,} tokens: {verdict.failed} failed, {verdict.wrong_tokens} "
        f"wrong tokens in {verdict.wrong_answers} answers; {verdict.late} by the previous version within 0.1 s.",
        f"Answered by: {by}",
    ]
    parts += [f"Failed, {count} times: {error}" for error, count in verdict.errors.most_common(MAX_EXAMPLES)]
    parts += [f"Wrong: {example}" for example in verdict.examples[:MAX_EXAMPLES]]
    return "\n".join(parts)


def _format_count(what: str, count: int) -> str:
    return f"{what}: {count}" if count else ""


def _format_promotion(found: PromotionResult | None) -> str:
    if found is None:
        return ""
    calls, answers = ([getattr(one, of) for one in found.seen] for of in ("from_call", "from_answer"))
    seen = table(
        [f"{len(calls)} promotions, until 2 gateways use the new version", "p50 ms", "max ms"],
        [["since SetAlias was called", f"{median(calls):.1f}", f"{max(calls):.1f}"],
         ["since SetAlias returned", f"{median(answers):.1f}", f"{max(answers):.1f}"]],
    )  # fmt: skip
    first = table(
        ["time to the first token", "requests", "p50 ms", "max ms"],
        [[name, str(len(took)), f"{median(took):.0f}", f"{max(took):.0f}"] for name, took in
         (("first request on a new version", found.first_ms), ("request on a warm version", found.warm_ms))],
    )  # fmt: skip
    return f"{seen}\n\n{first}"


def _format_zipf(found: ZipfResult | None) -> str:
    if found is None:
        return ""
    rows = [
        [name, f"{side.responses_per_second:.2f}", f"{side.first_p50:.2f}", f"{side.first_p95:.2f}", str(side.failed),
         str(side.wrong_tokens)]
        for name, side in (("Pointsman", found.ours), ("bare vLLM, same flags", found.bare))
    ]  # fmt: skip
    head = f"{found.adapters} adapters, {BATCH} per batch, Zipf({EXPONENT}), {CLIENTS} clients"
    parts = [
        table([head, "responses/s", "first token p50 s", "p95 s", "failed", "wrong tokens"], rows),
        f"Resident when requested: {found.hit_ratio:.0%} of the requests. Registered without a smoke test.",
        _format_verdict(replace(found.verdict, by_model=Counter({"all adapters": found.verdict.answers}))),
    ]
    return "\n\n".join([*parts, *([_format_cold_loads(found.cold)] if found.cold else [])])


def _format_cold_loads(found: ColdLoadResult) -> str:
    streams = table(
        [f"{CLIENTS} streams", "tokens/s", "gap p50 ms", "p99 ms", "max ms"],
        [_gaps("alone", found.calm), _gaps("while adapters are loaded", found.loading)],
    )
    steps = ", ".join(f"{step} {seconds:.3f}" for step, seconds in found.steps.items())
    first = ", ".join(f"{seconds:.2f}" for seconds in sorted(found.first_token_seconds))
    return (
        f"{streams}\n\nSeconds to the first token of adapters that were not loaded: {first}\n"
        f"Mean seconds of each step of a load: {steps}"
        f"\n{_format_verdict(replace(found.verdict, by_model=Counter({'all adapters': found.verdict.answers})))}"
    )


def _format_kernels(found: dict[str, float]) -> str:
    rows = [[name, f"{figure:,.3f}"] for name, figure in found.items()]
    return table(["the engine with adapters, relative to its base model", "figure"], rows)


def _format_registry(found: list[RegistrySize]) -> str:
    columns = {
        "register": "register_ms",
        "watch": "watch_ms",
        "read a change": "refresh_ms",
        "place": "place_ms",
        "list all": "list_ms",
        f"to {SERVERS} gateways": "publish_ms",
    }
    rows = [[f"{one.versions:,}", *(f"{getattr(one, name):.2f}" for name in columns.values())] for one in found]
    return table([f"versions, {SERVERS} lora-servers (ms)", *columns], rows) if rows else ""
