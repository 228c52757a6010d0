"""The tables, what was aimed at and reached, and the one line for programs."""

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import median

from benchmarks.adapters.promotion import Promoted
from benchmarks.adapters.swap import Gaps, Swapped
from benchmarks.adapters.verdicts import Verdict
from benchmarks.adapters.zipf import BATCH, CLIENTS, EXPONENT, Cold, Zipfed
from benchmarks.gateway_load.report import table

MOST_EXAMPLES = 5


@dataclass(slots=True)
class Findings:
    """What has been measured so far."""

    swapped: Swapped | None = None
    promoted: Promoted | None = None
    zipfed: Zipfed | None = None
    zipfed_256: Zipfed | None = None
    kernels: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """Parts that could not be measured, and why."""

    @property
    def figures(self) -> dict[str, float | None]:
        swapped, promoted, zipfed, many = self.swapped, self.promoted, self.zipfed, self.zipfed_256
        cold = zipfed.cold if zipfed else None
        return {
            "swap_failed": swapped.verdict.failed if swapped else None,
            "swap_wrong_tokens": swapped.verdict.wrong_tokens if swapped else None,
            "swap_gap_p99_ratio": swapped.gap_ratio if swapped else None,
            "moving_rate_ratio": swapped.rate_ratio if swapped else None,
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
        }


AIMS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "swap_failed": ("0", lambda figure: figure == 0),
    "swap_wrong_tokens": ("0", lambda figure: figure == 0),
    "swap_gap_p99_ratio": ("at most 2", lambda figure: figure <= 2),
    "decode_ratio": ("at least 0.7", lambda figure: figure >= 0.7),
    "prefill_ratio": ("at least 0.8", lambda figure: figure >= 0.8),
    "promote_ms": ("at most 100", lambda figure: figure <= 100),
    "first_token_ratio": ("at most 1.2", lambda figure: figure <= 1.2),
    "moving_rate_ratio": ("at least 0.85", lambda figure: figure >= 0.85),
    "zipf_failed": ("0", lambda figure: figure == 0),
    "zipf_wrong_tokens": ("0", lambda figure: figure == 0),
    "zipf_rps_ratio": ("at least 0.9", lambda figure: figure >= 0.9),
    "zipf_first_p95_ratio": ("at most 1.3", lambda figure: figure <= 1.3),
    "zipf256_rps_ratio": ("at least 0.9", lambda figure: figure >= 0.9),
    "zipf256_first_p95_ratio": ("at most 1.3", lambda figure: figure <= 1.3),
    "cold_first_s": ("at most 2", lambda figure: figure <= 2),
    "cold_gap_p99_ratio": ("at most 2", lambda figure: figure <= 2),
}


def printed(found: Findings) -> str:
    parts = [_swapped(found.swapped), _promoted(found.promoted), _zipfed(found.zipfed), _zipfed(found.zipfed_256)]
    parts.append(_kernels(found.kernels))
    if found.failed:
        parts.append("Not measured:\n" + "\n".join(f"  {name}: {why}" for name, why in found.failed.items()))
    figures = found.figures
    rows = [
        [name, f"{figures[name]:,.3f}", aim, "reached" if holds(figures[name] or 0.0) else "NOT reached"]
        for name, (aim, holds) in AIMS.items()
        if figures[name] is not None
    ]
    parts.append(table(["aim", "figure", "wanted", ""], rows))
    return "\n\n".join(part for part in parts if part) + "\n" + json.dumps(line(found))


def line(found: Findings) -> dict[str, float | None]:
    """For programs; what was not measured is null, and so is what JSON has no number for."""
    return {
        name: round(figure, 3) if figure is not None and math.isfinite(figure) else None
        for name, figure in found.figures.items()
    }


def _swapped(found: Swapped | None) -> str:
    if found is None:
        return ""
    load = table(
        [f"16 streams, base and 3 adapters, {found.batch} a batch", "tokens/s", "gap p50 ms", "p99 ms", "longest ms"],
        [_gaps("the points lie still", found.calm), _gaps("moved every 2 s", found.moving)],
    )
    moves = table(
        ["move", "done", "p50 s", "longest s"],
        [
            [kind, str(len(took)), f"{median(took):.2f}", f"{max(took):.2f}"]
            for kind, took in found.moved.seconds.items()
        ],
    )
    said = [load, moves, _verdict(found.verdict)]
    said.append(f"Each adapter is sure of each token by {found.least_gap:.1f} nats or more.")
    said += [_counted("Turns without a move, since all were busy", found.moved.skipped)]
    said += [_counted("Calls not answered in the end", found.moved.unanswered)]
    said += [f"Refused, {count} times: {words}" for words, count in found.moved.refused.items()]
    return "\n\n".join(part for part in said if part)


def _gaps(name: str, gaps: Gaps) -> list[str]:
    return [name, f"{gaps.tokens_per_second:,.0f}", f"{gaps.p50:.0f}", f"{gaps.p99:.0f}", f"{gaps.longest:.0f}"]


def _verdict(verdict: Verdict) -> str:
    by = ", ".join(f"{model or 'nobody'} {count}" for model, count in sorted(Counter(verdict.by_model).items()))
    said = [
        f"{verdict.answers:,} answers, {verdict.tokens:,} tokens: {verdict.failed} failed, {verdict.wrong_tokens} "
        f"tokens wrong in {verdict.wrong_answers} answers; {verdict.late} late (by the former version, within 0.1 s).",
        f"By: {by}",
    ]
    said += [f"Failed, {count} times: {error}" for error, count in verdict.errors.most_common(MOST_EXAMPLES)]
    said += [f"Wrong: {example}" for example in verdict.examples[:MOST_EXAMPLES]]
    return "\n".join(said)


def _counted(what: str, count: int) -> str:
    return f"{what}: {count}" if count else ""


def _promoted(found: Promoted | None) -> str:
    if found is None:
        return ""
    calls, answers = ([getattr(one, of) for one in found.seen] for of in ("from_call", "from_answer"))
    seen = table(
        [f"{len(calls)} promotions, until 2 gateways answer so", "p50 ms", "longest ms"],
        [["since SetAlias was called", f"{median(calls):.1f}", f"{max(calls):.1f}"],
         ["since it answered", f"{median(answers):.1f}", f"{max(answers):.1f}"]],
    )  # fmt: skip
    first = table(
        ["time to the first token", "requests", "p50 ms", "longest ms"],
        [[name, str(len(took)), f"{median(took):.0f}", f"{max(took):.0f}"] for name, took in
         (("the first on a new version", found.first_ms), ("on a warm one", found.warm_ms))],
    )  # fmt: skip
    return f"{seen}\n\n{first}"


def _zipfed(found: Zipfed | None) -> str:
    if found is None:
        return ""
    rows = [
        [name, f"{side.responses_per_second:.2f}", f"{side.first_p50:.2f}", f"{side.first_p95:.2f}", str(side.failed),
         str(side.wrong_tokens)]
        for name, side in (("Pointsman", found.ours), ("bare vLLM, same flags", found.bare))
    ]  # fmt: skip
    head = f"{found.adapters} adapters, {BATCH} a batch, Zipf({EXPONENT}), {CLIENTS} at once"
    parts = [
        table([head, "responses/s", "first token p50 s", "p95 s", "failed", "wrong tokens"], rows),
        f"Held when requested: {found.hit_ratio:.2f} of all. Registered without a smoke test.",
        _verdict(replace(found.verdict, by_model=Counter({"all adapters": found.verdict.answers}))),
    ]
    return "\n\n".join([*parts, *([_cold(found.cold)] if found.cold else [])])


def _cold(found: Cold) -> str:
    streams = table(
        [f"{CLIENTS} streams", "tokens/s", "gap p50 ms", "p99 ms", "longest ms"],
        [_gaps("alone", found.calm), _gaps("while adapters that are not held are loaded", found.loading)],
    )
    steps = ", ".join(f"{step} {seconds:.3f}" for step, seconds in found.steps.items())
    first = ", ".join(f"{seconds:.2f}" for seconds in sorted(found.first))
    return (
        f"{streams}\n\nFirst tokens of adapters that were not held, s: {first}\nMean of each step of a load, s: {steps}"
        f"\n{_verdict(replace(found.verdict, by_model=Counter({'all adapters': found.verdict.answers})))}"
    )


def _kernels(found: dict[str, float]) -> str:
    rows = [[name, f"{figure:,.3f}"] for name, figure in found.items()]
    return table(["the engine with adapters, beside its base model", "figure"], rows)
