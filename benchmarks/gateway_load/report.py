"""Formats the tables, the comparison with the targets, and the JSON summary."""

import json
import math
from collections.abc import Mapping, Sequence

from benchmarks.gateway_load import contenders
from benchmarks.gateway_load.findings import Findings, first_added_ms, relative_to_direct
from benchmarks.gateway_load.streams import StreamStatistics
from benchmarks.gateway_load.targets import check_targets

MAX_ROWS = 25


def format_report(found: Findings) -> str:
    parts = [
        _rates(found),
        _workers(found),
        _latency_table(found),
        _streams("256 streams", found.streams),
        _streams("1,000 streams, each a quarter as fast", found.streams1000),
        _grpc(found),
        _junk(found),
        _profile(found),
    ]
    if found.missing:
        parts.append("Not measured:\n" + "\n".join(f"  {name}: {why}" for name, why in found.missing.items()))
    rows = [
        [target.name, f"{target.figure:,.2f}", "met" if target.met else "NOT met"] for target in check_targets(found)
    ]
    parts.append(table(["target", "figure", ""], rows))
    return "\n\n".join(part for part in parts if part) + "\n" + json.dumps(json_summary(found))


def json_summary(found: Findings) -> dict[str, float | None]:
    """Returns the figures for other programs; None for those that were not measured."""
    grpc = found.grpc
    figures = {
        "rps": found.rps(contenders.OURS),
        "rps_auto": found.rps(contenders.OURS_AUTO),
        "rps_vllm_router": found.rps(contenders.VLLM_ROUTER),
        "rps_vllm_router_default": found.rps(contenders.VLLM_ROUTER_DEFAULT),
        "rps_litellm": found.rps(contenders.LITELLM),
        "rps_portkey": found.rps(contenders.PORTKEY_GATEWAY),
        "added_p50_ms_at_200": found.added_ms(200, "p50_ms"),
        "added_p99_ms_at_1000": found.added_ms(1000, "p99_ms"),
        "streams256_vs_direct": relative_to_direct(found.streams),
        "first_chunk_added_p50_ms": first_added_ms(found.streams),
        "streams1000_vs_direct": relative_to_direct(found.streams1000),
        "streams1000_first_chunk_added_p50_ms": first_added_ms(found.streams1000),
        "workers2_ratio": found.workers2_ratio(),
        "workers2_ratio_nginx": found.workers2_ratio(contenders.NGINX),
        "grpc_rps": grpc["Generate"].ours.per_second if grpc else None,
        "grpc_us": grpc["Generate"].ours.cpu_us if grpc else None,
        "grpc_vs_empty_server": grpc["Generate"].ratio if grpc else None,
        "grpc_stream_us": grpc["GenerateStream"].ours.cpu_us if grpc else None,
        "grpc_stream_vs_empty_server": grpc["GenerateStream"].ratio if grpc else None,
    }
    return {name: _rounded(value) for name, value in figures.items()}


def _rounded(value: float | None) -> float | None:
    """Replaces infinity, which JSON cannot represent, with None."""
    return round(value, 3) if value is not None and math.isfinite(value) else None


def _rates(found: Findings) -> str:
    if not found.rates:
        return ""
    heads = ["64 connections, one core", "version", "requests/s", "min - max", "relative to vllm-router", "p50 ms",
             "p99 ms", "CPU us", "core busy", "MB", "failed"]  # fmt: skip
    router = found.rps(contenders.VLLM_ROUTER)
    rows = [
        [
            name, found.versions.get(name, ""), f"{one.rps:,.0f}", f"{one.min_rps:,.0f} - {one.max_rps:,.0f}",
            f"{one.rps / router:.2f}" if router else "", f"{one.p50_ms:.2f}", f"{one.p99_ms:.2f}",
            *(["", "", ""] if name == contenders.DIRECT else
              [f"{one.cpu_us:.0f}", f"{one.busy:.0%}", f"{one.resident_mb:.0f}"]), str(one.failed),
        ]
        for name, one in sorted(found.rates.items(), key=lambda each: -each[1].rps)
    ]  # fmt: skip
    rows += [[name, "", "not installed" if "not installed" in why else "failed", *[""] * 8]
             for name, why in found.missing.items() if name in contenders.PEER_STARTS]  # fmt: skip
    return table(heads, rows)


def _workers(found: Findings) -> str:
    heads = [
        "processes on both cores, which the load shares",
        "requests/s",
        "min - max",
        "CPU us",
        "cores busy",
        "failed",
    ]
    rows = [
        [name, f"{one.rps:,.0f}", f"{one.min_rps:,.0f} - {one.max_rps:,.0f}", f"{one.cpu_us:.0f}", f"{one.busy:.2f}",
         str(one.failed)]
        for name, one in found.workers.items()
    ]  # fmt: skip
    return table(heads, rows)


def _latency_table(found: Findings) -> str:
    heads = ["at a fixed rate", "requests/s", "p50 ms", "p99 ms", "added p50 ms", "added p99 ms", "failed"]
    rows = []
    for rate, waited in found.latencies.items():
        for name, one in waited.items():
            added = [found.added_ms(rate, what, name) for what in ("p50_ms", "p99_ms")]
            shown = ["" if name == contenders.DIRECT or a is None else f"{a:+.2f}" for a in added]
            rows.append([name, str(rate), f"{one.p50_ms:.2f}", f"{one.p99_ms:.2f}", *shown, str(one.failed)])
    return table(heads, rows)


def _streams(title: str, streams: Mapping[str, StreamStatistics]) -> str:
    heads = [title, "chunks/s", "relative to direct", "first chunk ms", "added ms", "longest gap s", "stalled",
             "incomplete", "refused"]  # fmt: skip
    rows = []
    for name, one in streams.items():
        share, added = relative_to_direct(streams, name), first_added_ms(streams, name)
        rows.append([
            name, f"{one.chunks_per_second:,.0f}", "" if share is None else f"{share:.2f}", f"{one.first_ms:.1f}",
            "" if added is None else f"{added:+.1f}", f"{one.longest_gap:.2f}", str(one.stalled), str(one.incomplete),
            str(one.refused),
        ])  # fmt: skip
    return table(heads, rows)


def _grpc(found: Findings) -> str:
    heads = ["gRPC, 64 in flight", "calls/s", "p50 ms", "CPU us", "of an empty server", "core busy", "failed"]
    rows = []
    for method, each in found.grpc.items():
        one = each.ours
        row = [method, f"{one.per_second:,.0f}", f"{one.p50_ms:.1f}", f"{one.cpu_us:.0f}", f"{each.ratio:.2f}"]
        rows.append([*row, f"{one.busy:.0%}", str(one.failed)])
    return table(heads, rows)


def _junk(found: Findings) -> str:
    one = found.junk
    if one is None:
        return ""
    return (
        f"{one.names:,} unknown model names: {one.refused:,} refused; metric series: {one.before} before, "
        f"{one.after_first} after the first four, {one.after_all} after all; memory {one.grown_mb:+.1f} MB"
    )


def _profile(found: Findings) -> str:
    if found.profile is None:
        return ""
    kinds = {
        "by module of this project, including what it calls": found.profile.modules,
        "by package": found.profile.packages,
        "by function": found.profile.functions,
    }
    parts = [
        table([f"profile {kind}", "share"], [[name, f"{share:.1%}"] for name, share in shares[:MAX_ROWS]])
        for kind, shares in kinds.items()
    ]
    return "\n\n".join([*parts, f"({found.profile.samples} samples)"])


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Formats a Markdown table: first column left-aligned, the others right-aligned. Empty without rows."""
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    lines = []
    for row in [heads, ["-" * width for width in widths], *rows]:
        cells = [cell.ljust(width) if not place else cell.rjust(width) for place, (cell, width) in
                 enumerate(zip(row, widths, strict=True))]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
