"""The parts of the measurement: adapters beside bare vLLM, FP8, tensor parallel, swaps under load, FAISS."""

import asyncio
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.adapters import adapters, swap, zipf
from benchmarks.gpu.faiss_search import measure_faiss
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.time_limit import TimeLimit

FP8 = "--quantization fp8"
WITHOUT_EFFECT = "--seed 0"
"""Takes the place of FP8 and of tensor parallel in a dry run: it is vLLM's default."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    adapters: tuple[int, ...]
    """Numbers of adapters in the engine's host memory; at most 8 are in a batch."""
    variant: int
    """The number of adapters with FP8, and with tensor parallel."""
    extent: zipf.Extent
    moves: swap.Extent | None
    """Of the moves of versions under load, whose adapters have to be trained first; None: they are left out."""
    vectors: int
    """Of the FAISS index."""
    swapped: int = 8
    """The number of adapters beside which others, which the engine does not hold, are loaded."""


FULL = Sizes(
    adapters=(0, 1, 8, 64, 256),
    variant=8,
    extent=zipf.Extent(requests=600, cold=8, calm=10.0, tokens=64),
    moves=swap.Extent(calm=20.0, moves=60.0),
    vectors=200_000,
)
QUICK = replace(
    FULL,
    extent=zipf.Extent(requests=160, cold=4, calm=10.0, tokens=64),
    moves=swap.Extent(calm=10.0, moves=30.0),
    vectors=50_000,
)
DRY = Sizes(
    adapters=(8,), variant=1, extent=zipf.Extent(requests=16, cold=2, calm=3.0, tokens=4), moves=None, vectors=5_000
)


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to start the engine."""

    name: str
    engine_args: str
    """Further arguments of vLLM, on both sides."""


PLAIN = Variant("", "")


async def measure_all(folder: Path, sizes: Sizes, machine: Machine, limit: TimeLimit, *, dry: bool) -> dict[str, Any]:
    """Measures part by part, what matters most first; what is not measured is in `limit.missing`."""
    count = max(*sizes.adapters, sizes.variant) + zipf.EXTRA_ADAPTERS
    making = partial(asyncio.to_thread, adapters.constant_adapters, count, limit.left)
    made = await limit.run("making adapters", making)
    serving: list[dict[str, Any]] = []
    if made is not None:
        parts = [(PLAIN, number) for number in sizes.adapters]
        parts += [(variant, sizes.variant) for variant in variants(machine, limit, dry=dry)]
        for place, (variant, number) in enumerate(parts):
            name = f"{number} adapters{variant.name and ', '}{variant.name}"
            row = await limit.run(name, partial(_serve, folder / str(place), sizes, variant, number))
            serving += [row] if row else []
    faiss = await limit.run("FAISS", partial(asyncio.to_thread, measure_faiss, sizes.vectors))
    moves = None
    if sizes.moves:
        moves = await limit.run(
            "moves of versions under load", partial(_move, folder / "moves", sizes.moves, limit.left)
        )
    return {
        "serving": serving,
        "faiss": {device: asdict(found) for device, found in (faiss or {}).items()},
        "moves": moves,
    }


def variants(machine: Machine, limit: TimeLimit, *, dry: bool) -> list[Variant]:
    """Returns the ways to run the engine that this machine's GPUs allow: with FP8 weights, and with tensor parallelism.

    The others are passed to `limit.leave_out` with the reason. With `dry`, returns both, with arguments that change
    nothing, so that the benchmark can be tested on a CPU.
    """
    gpus = len(machine.gpus)
    parallel = 1 << (gpus.bit_length() - 1) if gpus else 0
    """The largest power of two: the number of a model's attention heads has to be a multiple."""
    if dry:
        return [Variant("FP8 (dry)", WITHOUT_EFFECT), Variant("tensor parallel (dry)", WITHOUT_EFFECT)]
    found = []
    if gpus:
        found.append(Variant("FP8", FP8))
    else:
        limit.leave_out("FP8", "it needs a GPU")
    if parallel > 1:
        found.append(Variant(f"tensor parallel {parallel}", f"--tensor-parallel-size {parallel}"))
    else:
        limit.leave_out("tensor parallel", f"it needs two GPUs, and there is {'one' if gpus else 'none'}")
    return found


async def _serve(folder: Path, sizes: Sizes, variant: Variant, count: int) -> dict[str, Any]:
    """Returns throughput and first token through the gateway and of bare vLLM, and at one count how swaps went."""
    with_swaps = variant is PLAIN and count == sizes.swapped
    found = await zipf.measure(folder, sizes.extent, count, with_cold=with_swaps, engine_args=variant.engine_args)
    row = {
        "variant": variant.name,
        "adapters": count,
        "ours": asdict(found.ours),
        "bare": asdict(found.bare),
        "rate_ratio": found.ours.tokens_per_second / found.bare.tokens_per_second,
        "first_p95_ratio": found.first_p95_ratio,
        "errors": dict(found.verdict.errors),
        "bare_load_p50_s": found.bare_load_p50,
    }
    if found.cold:
        row["swaps"] = {
            "first_token_p50_s": found.cold.p50,
            "pause_p99_ms": found.cold.loading.p99,
            "pause_p99_ms_without": found.cold.calm.p99,
            "steps_s": dict(found.cold.steps),
            "failed": found.cold.verdict.failed,
            "errors": dict(found.cold.verdict.errors),
            "wrong_tokens": found.cold.verdict.wrong_tokens,
        }
    return row


async def _move(folder: Path, extent: swap.Extent, max_seconds: float) -> dict[str, Any]:
    await asyncio.to_thread(folder.mkdir)
    await asyncio.to_thread(adapters.trained_adapters, max_seconds)
    found = await swap.measure(folder, extent)
    return {
        "moves": sum(map(len, found.moves.seconds.values())),
        "answers": found.verdict.answers,
        "failed": found.verdict.failed,
        "errors": dict(found.verdict.errors),
        "wrong_tokens": found.verdict.wrong_tokens,
        "tokens_per_second": found.moving.tokens_per_second,
        "rate_ratio": found.rate_ratio,
    }
