"""The measurement for GPUs ends in time, says what it could not measure, and prints a table."""

import asyncio
from typing import Any

import pytest

from benchmarks.gateway_load.machine import CannotMeasure
from benchmarks.gpu.faiss_search import measure_faiss
from benchmarks.gpu.machine import Machine, find_machine
from benchmarks.gpu.page import DRY, to_markdown
from benchmarks.gpu.parts import variants
from benchmarks.gpu.time_limit import Missing, TimeLimit


async def seven() -> int:
    return 7


async def impossible() -> int:
    raise CannotMeasure("the engine did not start")


async def endless() -> int:
    await asyncio.Event().wait()
    return 0


async def test_a_part_that_cannot_be_measured_is_named_and_the_others_are_measured() -> None:
    limit = TimeLimit(60)
    assert await limit.run("one", impossible) is None
    assert await limit.run("two", seven) == 7
    assert limit.missing == [Missing("one", "the engine did not start", is_failure=True)]


async def test_a_part_ends_when_the_time_is_over_and_no_other_one_begins() -> None:
    limit = TimeLimit(0.2)
    assert await limit.run("one", endless) is None
    assert await limit.run("two", seven) is None
    over = "the 0.00333333 minutes were over; give more with --minutes"
    assert [(one.part, one.reason) for one in limit.missing] == [("one", over), ("two", over)]
    assert limit.has_failed


async def late() -> int:
    raise TimeoutError("no answer after 60 s")


async def silent() -> int:
    raise TimeoutError


async def test_a_part_that_gave_up_waiting_is_not_said_to_lack_time() -> None:
    limit = TimeLimit(60)
    assert await limit.run("one", late) is None
    assert await limit.run("two", silent) is None
    assert await limit.run("three", seven) == 7
    assert limit.missing == [
        Missing("one", "no answer after 60 s", is_failure=True),
        Missing("two", "it waited in vain for something", is_failure=True),
    ]


@pytest.mark.parametrize(
    ("gpus", "dry", "names", "left_out"),
    [
        (0, False, [], ["FP8", "tensor parallel"]),
        (1, False, ["FP8"], ["tensor parallel"]),
        (3, False, ["FP8", "tensor parallel 2"], []),
        (8, False, ["FP8", "tensor parallel 8"], []),
        (0, True, ["FP8 (dry)", "tensor parallel (dry)"], []),
    ],
)
def test_fp8_needs_a_gpu_and_tensor_parallel_two(gpus: int, dry: bool, names: list[str], left_out: list[str]) -> None:
    limit = TimeLimit(60)
    found = variants(Machine(("NVIDIA H100",) * gpus, "a CPU", "model", "0.32", "abc"), limit, dry=dry)
    assert [variant.name for variant in found] == names
    assert [one.part for one in limit.missing] == left_out
    assert not limit.has_failed  # this machine cannot have them


def test_the_machine_is_described() -> None:
    machine = find_machine()
    assert machine.device == (f"{len(machine.gpus)} x {machine.gpus[0]}" if machine.gpus else machine.cpu)
    assert machine.cpu


def test_the_search_finds_most_of_the_nearest() -> None:
    found = measure_faiss(3_000)["cpu"]
    assert (found.vectors, found.recall > 0.9, found.p50_ms > 0) == (3_000, True, True)


SIDE = {"tokens_per_second": 1000.4, "first_p50": 0.0504, "first_p95": 0.1, "failed": 0, "wrong_tokens": 0}
FOUND: dict[str, Any] = {
    "machine": {"model": "llama", "vllm": "0.32.0", "commit": "abc"},
    "device": "2 x NVIDIA H100",
    "command": "make bench-gpu ARGS=''",
    "dry": False,
    "minutes": 21.4,
    "serving": [
        {
            "variant": "",
            "adapters": 8,
            "ours": SIDE,
            "bare": SIDE | {"tokens_per_second": 1100.0},
            "rate_ratio": 0.909,
            "first_p95_ratio": 1.0,
            "bare_load_p50_s": 0.0123,
            "swaps": {
                "first_token_p50_s": 0.31,
                "pause_p99_ms": 20.0,
                "pause_p99_ms_without": 18.0,
                "failed": 0,
                "wrong_tokens": 0,
            },
        },
        {
            "variant": "FP8",
            "adapters": 8,
            "ours": SIDE,
            "bare": SIDE,
            "rate_ratio": 1.0,
            "first_p95_ratio": 1.0,
            "bare_load_p50_s": 0.01,
        },
    ],
    "faiss": {"cpu": {"vectors": 200_000, "build_s": 9.0, "p50_ms": 0.2, "recall": 0.995}},
    "moves": {"moves": 24, "answers": 300, "failed": 0, "wrong_tokens": 0, "rate_ratio": 0.9},
    "missing": [{"part": "tensor parallel", "reason": "it needs two GPUs, and there is one", "is_failure": False}],
}


def test_the_table_has_what_was_measured_and_what_was_not() -> None:
    page = to_markdown(FOUND)
    assert "## llama on 2 x NVIDIA H100" in page
    assert "| 8 | 1,000 | 1,100 | 0.91 | 50, 100 | 50, 100 | 0 | 0 |" in page
    assert "| 8, FP8 | 1,000 | 1,000 | 1.00 |" in page
    assert "first token after 0.31 s (p50) while 16 streams run on. The p99 of their pauses is 20 ms, and 18 " in page
    assert "Bare vLLM loads one in 12 ms" in page
    assert "24 moves of versions under 16 streams: 300 answers, 0 failed, 0 wrong tokens" in page
    assert "| CPU | 200,000 | 9.0 | 0.20 | 0.995 |" in page
    assert "Not measured: tensor parallel: it needs two GPUs, and there is one." in page
    assert DRY not in page


def test_a_dry_run_says_so() -> None:
    assert DRY in to_markdown(FOUND | {"dry": True})
