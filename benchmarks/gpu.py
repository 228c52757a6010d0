"""Measures the base model, adapters, hot swaps and FAISS on this machine, on a GPU if there is one: `make bench-gpu`.

    BENCH_MODEL=FOLDER python -m benchmarks.gpu [--adapters 0 1 8 64 256] [--quick] [--out benchmarks/GPU.md]

Each row is measured through the gateway and then on bare vLLM with the same flags. Writes a page, and prints one line
of JSON at the end. If a part cannot be measured, the reason is printed, and its figures are missing.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from pointsman_retriever.index.ivf_index import Gpu, build_ivf_index, first_gpu

from benchmarks.adapters import swap, zipf
from benchmarks.adapters.services import BASE_FOLDER
from benchmarks.gateway_load.machine import CannotMeasure, describe_machine

ADAPTERS = (0, 1, 8, 64, 256)
TOKENS = 64
"""Number of tokens per answer."""
VECTORS, DIMENSIONS, QUERIES, NEAREST = 200_000, 384, 500, 10
HEAD = "| adapters | tokens/s | of bare vLLM | first token p50, p95 (ms) | p95 of bare vLLM | failed | wrong tokens |"


async def measure_adapters(folder: Path, count: int, quick: bool) -> dict[str, Any]:
    """Measures throughput and first token of `count` adapters in the engine's memory, at most 8 in a batch."""
    extent = replace(zipf.QUICK if quick else zipf.FULL, tokens=TOKENS)
    found = await zipf.measure(folder, extent, count, with_cold=False)
    return {
        "adapters": count,
        **asdict(found.ours),
        "rate_ratio": found.ours.tokens_per_second / found.bare.tokens_per_second,
        "first_p95_ratio": found.first_p95_ratio,
    }


async def measure_swaps(folder: Path, quick: bool) -> dict[str, Any]:
    """Measures 16 streams while adapters are moved every two seconds."""
    found = await swap.measure(folder, swap.QUICK if quick else swap.FULL)
    return {
        "answers": found.verdict.answers,
        "failed": found.verdict.failed,
        "wrong_tokens": found.verdict.wrong_tokens,
        "tokens_per_second": found.moving.tokens_per_second,
        "rate_ratio": found.rate_ratio,
    }


def measure_faiss(rows: int) -> dict[str, dict[str, float]]:
    """Measures building an index over clustered random vectors and searching it one query at a time, on the CPU and on
    the first GPU.
    """
    random = np.random.default_rng(1)
    centres = random.normal(size=(1_000, DIMENSIONS))
    vectors = centres[random.integers(0, len(centres), rows + QUERIES)] + random.normal(
        size=(rows + QUERIES, DIMENSIONS)
    )
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    vectors, queries = vectors[:rows], vectors[rows:]
    _, true = faiss.knn(queries, vectors, NEAREST, metric=faiss.METRIC_INNER_PRODUCT)
    devices: dict[str, Gpu | None] = {"cpu": None}
    if gpu := first_gpu():
        devices["gpu"] = gpu
    found = {}
    for device, gpu in devices.items():
        started = time.perf_counter()
        index = build_ivf_index(vectors, gpu)
        built, milliseconds, hits = time.perf_counter() - started, [], 0
        for query, expected in zip(queries, true, strict=True):
            started = time.perf_counter()
            nearest = index.nearest(query, NEAREST, None)
            milliseconds.append(1e3 * (time.perf_counter() - started))
            hits += len(np.intersect1d(nearest, expected))
        found[device] = {
            "vectors": rows,
            "build_s": built,
            "p50_ms": float(np.median(milliseconds)),
            "recall_of_candidates": hits / (NEAREST * QUERIES),
        }
    return found


def page(found: dict[str, Any]) -> str:
    lines = [f"# {found['model']} on {found['device']}", "", f"`{found['command']}`, commit {found['commit']}.", ""]
    lines += [HEAD, "|---|---|---|---|---|---|---|"]
    lines += [
        f"| {row['adapters']} | {row['tokens_per_second']:.0f} | {row['rate_ratio']:.2f} "
        f"| {1e3 * row['first_p50']:.0f}, {1e3 * row['first_p95']:.0f} | {row['first_p95_ratio']:.2f} "
        f"| {row['failed']} | {row['wrong_tokens']} |"
        for row in found["adapters"]
    ]
    if swaps := found.get("swaps"):
        lines += [
            "",
            f"Swaps under load: {swaps['answers']} answers, {swaps['failed']} failed, {swaps['wrong_tokens']} wrong "
            f"tokens; {swaps['tokens_per_second']:.0f} tokens/s, {swaps['rate_ratio']:.2f} of those without moves.",
        ]
    for device, row in found.get("faiss", {}).items():
        lines += [
            "",
            f"FAISS on the {device.upper()}, {row['vectors']:,} vectors: built in {row['build_s']:.1f} s, search p50 "
            f"{row['p50_ms']:.2f} ms, recall of the candidates {row['recall_of_candidates']:.3f}.",
        ]
    return "\n".join([*lines, *("\n" + f"Not measured: {reason}" for reason in found["failed"])]) + "\n"


def _device() -> str:
    """Returns the GPU's name, or a description of the CPU."""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return describe_machine().splitlines()[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--adapters", type=int, nargs="+", default=list(ADAPTERS), help="numbers of adapters")
    parser.add_argument("--vectors", type=int, default=VECTORS, help="vectors of the FAISS index")
    parser.add_argument("--quick", action="store_true", help="fewer requests and shorter phases")
    parser.add_argument("--skip", choices=("swaps", "faiss"), nargs="*", default=[], help="parts to leave out")
    parser.add_argument("--out", type=Path, help="write the page to this file")
    options = parser.parse_args()
    revision = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    found: dict[str, Any] = {
        "model": BASE_FOLDER.name,
        "device": _device(),
        "commit": revision.stdout.strip(),
        "command": f"python -m benchmarks.gpu {' '.join(sys.argv[1:])}".strip(),
        "adapters": [],
        "failed": [],
    }

    def part(name: str, measure: Callable[[], Any]) -> Any:
        print(f"{name} ...", flush=True)
        try:
            return measure()
        except CannotMeasure as error:
            found["failed"].append(f"{name}: {error}")

    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as scratch:
        for count in options.adapters:
            measured = part(
                f"{count} adapters",
                lambda count=count: asyncio.run(measure_adapters(Path(scratch) / str(count), count, options.quick)),
            )
            found["adapters"] += [measured] if measured else []
        if "swaps" not in options.skip:
            (Path(scratch) / "swaps").mkdir()
            found["swaps"] = part("swaps", lambda: asyncio.run(measure_swaps(Path(scratch) / "swaps", options.quick)))
    if "faiss" not in options.skip:
        found["faiss"] = part("FAISS", lambda: measure_faiss(options.vectors)) or {}
    print(page(found))
    if options.out:
        options.out.write_text(page(found))
    print(json.dumps(found))
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
