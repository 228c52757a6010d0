"""The result as a page of Markdown, to be pasted into docs/gpu.md."""

from collections.abc import Iterator, Mapping
from typing import Any

HEAD = (
    "adapters", "tokens/s", "bare vLLM", "ratio", "first token p50, p95 (ms)", "bare vLLM", "wrong tokens", "failed",
)  # fmt: skip
DRY = "**A dry run: it shows that the measurement runs, and no figure means anything.**"


def to_markdown(found: Mapping[str, Any]) -> str:
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    machine = found["machine"]
    yield f"## {machine['model']} on {found['device']}"
    yield ""
    if found["dry"]:
        yield DRY
        yield ""
    yield f"`{found['command']}`, commit {machine['commit']}, vLLM {machine['vllm']}, {found['minutes']:.0f} minutes."
    yield ""
    yield f"| {' | '.join(HEAD)} |"
    yield "|---" * len(HEAD) + "|"
    for row in found["serving"]:
        yield f"| {' | '.join(_cells(row))} |"
    for row in found["serving"]:
        if swaps := row.get("swaps"):
            yield ""
            yield _swaps(swaps, row["bare_load_p50_s"])
    if moves := found["moves"]:
        yield ""
        yield (
            f"{moves['moves']} moves of versions under 16 streams: {moves['answers']} answers, {moves['failed']} "
            f"failed, {moves['wrong_tokens']} wrong tokens, {moves['rate_ratio']:.2f} of the tokens/s without moves."
        )
    if found["faiss"]:
        yield ""
        yield from _faiss(found["faiss"])
    for missing in found["missing"]:
        yield ""
        yield f"Not measured: {missing['part']}: {missing['reason']}."


def _cells(row: Mapping[str, Any]) -> Iterator[str]:
    ours, bare = row["ours"], row["bare"]
    yield f"{row['adapters']}{row['variant'] and ', '}{row['variant']}"
    yield f"{ours['tokens_per_second']:,.0f}"
    yield f"{bare['tokens_per_second']:,.0f}"
    yield f"{row['rate_ratio']:.2f}"
    for side in (ours, bare):
        yield f"{1e3 * side['first_p50']:,.0f}, {1e3 * side['first_p95']:,.0f}"
    yield f"{ours['wrong_tokens']}"
    yield f"{ours['failed']}"


def _swaps(swaps: Mapping[str, Any], bare_load_s: float | None) -> str:
    bare = "" if bare_load_s is None else f" Bare vLLM loads one in {1e3 * bare_load_s:,.0f} ms, without streams."
    pauses = f"{swaps['pause_p99_ms']:,.0f} ms, and {swaps['pause_p99_ms_without']:,.0f} without swaps"
    return (
        "Swap: an adapter that the engine does not hold gives its first token after "
        f"{swaps['first_token_p50_s']:.2f} s (p50) while 16 streams run on. The p99 of their pauses is {pauses}; "
        f"{swaps['failed']} failed, {swaps['wrong_tokens']} wrong tokens.{bare}"
    )


def _faiss(found: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    yield "| FAISS on | vectors | build (s) | search p50 (ms) | recall |"
    yield "|---|---|---|---|---|"
    for device, row in found.items():
        cells = f"{row['vectors']:,} | {row['build_s']:.1f} | {row['p50_ms']:.2f} | {row['recall']:.3f}"
        yield f"| {device.upper()} | {cells} |"
