"""Capacity planning: properties of the simulator, the arithmetic of a plan, and the inputs that it refuses."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.capacity.__main__ import main
from benchmarks.capacity.inputs import (
    CapacityError,
    EngineFigures,
    Figures,
    MeasuredRun,
    Measurements,
    PathLoad,
    Workload,
)
from benchmarks.capacity.planner import make_plan, min_engines
from benchmarks.capacity.simulator import compare, simulate, simulate_clients


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


RunPlan = Callable[..., Outcome]

ENGINE = EngineFigures(
    step_seconds=0.03,
    row_seconds=0.002,
    prompt_token_seconds=0.001,
    adapter_row_seconds=0.003,
    adapter_prompt_token_seconds=0.0012,
    max_num_seqs=64,
    max_num_batched_tokens=2048,
    max_loras=8,
    adapter_load_seconds=1.5,
    usd_per_hour=0.04,
)


def load(rate: float = 2.0, **path: Any) -> Workload:
    given = {"share": 1.0, "prompt_tokens": 60, "completion_tokens": 40, **path}
    return Workload(requests_per_second=rate, paths={"one": PathLoad(**given)}, first_token_seconds=2.0)


def test_the_time_of_a_single_client_is_the_steps_of_its_own_answer() -> None:
    found = simulate_clients(load(), ENGINE, 1, 400)
    alone = 40 * (0.03 + 0.002) + 60 * 0.001  # each token but the first is a row; the first comes with the prompt
    assert found.total_p50 == pytest.approx(alone, rel=0.1)
    assert found.tokens_per_second == pytest.approx(40 / alone, rel=0.1)


@given(clients=st.integers(2, 32))
@settings(max_examples=15, deadline=None)
def test_more_clients_raise_throughput_and_latency(clients: int) -> None:
    fewer, more = (simulate_clients(load(), ENGINE, number, 400) for number in (clients // 2, clients))
    assert more.tokens_per_second > fewer.tokens_per_second
    assert more.total_p50 >= fewer.total_p50


@given(rate=st.floats(0.1, 20), engines=st.integers(1, 6), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_every_request_is_answered_and_no_engine_is_busier_than_the_clock(rate: float, engines: int, seed: int) -> None:
    found = simulate(load(rate), ENGINE, engines, 200, seed)
    assert found.requests == 160  # all but the first fifth
    assert 0 < found.busy <= 1
    assert 0 < found.first_token_p50 <= found.first_token_p95 <= found.total_p95


def test_a_second_engine_shortens_the_queue_of_a_busy_one() -> None:
    busy = load(min_engines(load(1.0), ENGINE) * 6.0)
    one, two = (simulate(busy, ENGINE, engines, 600) for engines in (1, 2))
    assert two.first_token_p95 < one.first_token_p95
    assert two.busy < one.busy


def test_adapters_that_fit_into_the_slots_are_loaded_once_each() -> None:
    found = simulate(load(2.0, adapters=8), ENGINE, 1, 1000)
    assert found.hit_ratio == pytest.approx(1 - 8 / 1000)


def test_adapters_beyond_the_slots_are_reloaded_and_more_slots_avoid_that() -> None:
    hits = [
        simulate(load(0.5, adapters=64), ENGINE.model_copy(update={"max_loras": slots}), 1, 1000).hit_ratio
        for slots in (4, 8, 64)
    ]
    assert hits == sorted(hits)
    assert hits[0] < 0.6 < hits[2]


FIGURES = Figures.model_validate(
    {
        "about": "an engine that does not exist",
        "engine": ENGINE.model_dump(),
        "gateway": {
            "named_seconds": 0.0003,
            "classified_seconds": 0.0007,
            "token_seconds": 0.00001,
            "redis_calls_per_request": 0.1,
            "usd_per_hour": 0.04,
        },
        "retriever": {"search_seconds": 0.006, "chunk_bytes": 6000, "max_chunks": 1_000_000, "usd_per_hour": 0.08},
        "redis": {"max_calls_per_second": 50_000, "usd_per_hour": 0.02},
    }
)
MEASUREMENTS = Measurements(
    about="computed by hand from that engine's figures",
    runs=(
        MeasuredRun(
            name="one client",
            clients=1,
            path=PathLoad(share=1, prompt_tokens=60, completion_tokens=40),
            tokens_per_second=40 / (40 * 0.032 + 60 * 0.001),
            total_p50=40 * 0.032 + 60 * 0.001,
        ),
    ),
)


def test_only_the_figures_of_the_measured_engine_reproduce_the_measurements() -> None:
    assert all(one.agrees for one in compare(MEASUREMENTS, ENGINE))
    slower = ENGINE.model_copy(update={"step_seconds": 3 * ENGINE.step_seconds})
    assert not any(one.agrees for one in compare(MEASUREMENTS, slower))


def test_a_plan_meets_the_limit_includes_spares_and_adds_up() -> None:
    made = make_plan(load(6.0, searches=1).model_copy(update={"chunks": 50_000, "spare_replicas": 2}), FIGURES)
    parts = {part.name: part for part in made.services}
    assert made.engines.first_token_p95 <= 2.0
    assert parts["engines"].replicas >= min_engines(load(6.0), ENGINE) + 2
    assert parts["gateways"].replicas >= 3
    assert made.usd_per_month == pytest.approx(sum(part.usd_per_month for part in made.services))
    assert made.usd_per_1000 == pytest.approx(made.usd_per_month / (6.0 * 730 * 3600) * 1000)


def test_a_load_beyond_the_maximum_number_of_engines_is_refused_without_simulation() -> None:
    with pytest.raises(CapacityError, match=r"20000 requests a second are the work of [\d,]+ engines, and at most 512"):
        make_plan(load(20_000), FIGURES)


def test_a_retriever_that_holds_more_costs_more() -> None:
    dollars = [
        next(part for part in make_plan(load(searches=1).model_copy(update={"chunks": chunks}), FIGURES).services
             if part.name == "retriever").usd_per_month
        for chunks in (0, 1_000_000, 50_000_000)
    ]  # fmt: skip
    assert dollars[1] == dollars[0]  # 6 of its 8 GiB
    assert dollars[2] == pytest.approx(35 * dollars[0])  # 279 GiB


def test_notes_name_what_raises_each_limit() -> None:
    big = load(1.0, adapters=500).model_copy(update={"chunks": 10**9})
    notes = " ".join(make_plan(big, FIGURES).notes)
    assert "Milvus" in notes
    assert "500 adapters do not all fit" in notes


@pytest.fixture
def run_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> RunPlan:
    """Returns a function that runs `python -m benchmarks.capacity plan` on files with the given content; `append` is
    added to the workload.
    """

    def call(workload: dict[str, Any], *options: str, figures: Figures = FIGURES, append: str = "") -> Outcome:
        for name, written in (
            ("w", workload),
            ("f", figures.model_dump()),
            ("m", MEASUREMENTS.model_dump(mode="json")),
        ):
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(written))
        with (tmp_path / "w.yaml").open("a") as file:
            file.write(append)
        given = ("--figures", str(tmp_path / "f.yaml"), "--measurements", str(tmp_path / "m.yaml"))
        capsys.readouterr()
        code = main(["plan", str(tmp_path / "w.yaml"), *given, *options])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


WORKLOAD = {
    "requests_per_second": 1.0,
    "first_token_seconds": 3.0,
    "paths": {"rag": {"share": 0.5, "prompt_tokens": 200, "completion_tokens": 40, "searches": 1},
              "lora": {"share": 0.5, "prompt_tokens": 60, "completion_tokens": 40, "adapters": 3}},
}  # fmt: skip


def test_the_command_prints_its_figures_and_the_plan(run_plan: RunPlan) -> None:
    done = run_plan(WORKLOAD)
    assert done.code == 0, done.err
    assert "figures of: an engine that does not exist" in done.out
    assert "for 1,000 requests" in done.out
    result = json.loads(run_plan(WORKLOAD, "--json").out)
    assert {service["name"] for service in result["plan"]["services"]} == {"engines", "gateways", "retriever", "redis"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"requests_per_second": 0}, "requests_per_second"),
        ({"requests_per_second": float("inf")}, "requests_per_second: Input should be a finite number"),
        ({"requests_per_second": 1e308}, "at most 512 are planned"),
        ({"paths": {"a": {"share": 0.5, "prompt_tokens": 1, "completion_tokens": 1}}}, "add up to 0.5"),
        ({"rps": 3}, "rps"),
        ({"first_token_seconds": 0.0001}, "engines do not keep the first token"),
    ],
)
def test_an_invalid_workload_is_refused_with_the_key_at_fault(
    run_plan: RunPlan, change: dict[str, Any], message: str
) -> None:
    done = run_plan(WORKLOAD | change)
    assert done.code != 0
    assert message in done.err


def test_a_duplicate_key_is_refused(run_plan: RunPlan) -> None:
    done = run_plan(WORKLOAD, append="requests_per_second: 2\n")
    assert done.code == 1
    assert "'requests_per_second' stands twice" in done.err


def test_nothing_is_planned_with_figures_that_do_not_reproduce_the_runs(run_plan: RunPlan) -> None:
    slower = FIGURES.model_copy(update={"engine": ENGINE.model_copy(update={"step_seconds": 3 * ENGINE.step_seconds})})
    done = run_plan(WORKLOAD, figures=slower)
    assert done.code != 0
    assert "measure both on one machine" in done.err
