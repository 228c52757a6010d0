"""`pointsman capacity`: the simulator's laws, the arithmetic around it, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pointsman_cli.capacity.figures import EngineFigures, Figures
from pointsman_cli.capacity.plan import least_engines, plan
from pointsman_cli.capacity.simulator import simulate, simulate_clients
from pointsman_cli.capacity.truth import Measured, Truth, beside
from pointsman_cli.capacity.workload import PathLoad, Workload
from pointsman_cli.errors import CommandError

Cli = Callable[..., Any]
Plans = Callable[..., Any]

ENGINE = EngineFigures(
    step=0.03,
    row=0.002,
    prompt_token=0.001,
    adapter_row=0.003,
    adapter_prompt_token=0.0012,
    most_rows=64,
    most_tokens=2048,
    slots=8,
    load=1.5,
    dollars_per_hour=0.04,
)


def load(rate: float = 2.0, **path: Any) -> Workload:
    given = {"share": 1.0, "prompt_tokens": 60, "completion_tokens": 40, **path}
    return Workload(requests_per_second=rate, paths={"one": PathLoad(**given)}, first_token_seconds=2.0)


def test_one_client_alone_takes_the_steps_of_its_own_answer() -> None:
    found = simulate_clients(load(), ENGINE, 1, 400)
    alone = 40 * (0.03 + 0.002) + 60 * 0.001  # each token but the first is a row; the first comes with the prompt
    assert found.total_p50 == pytest.approx(alone, rel=0.1)
    assert found.tokens_per_second == pytest.approx(40 / alone, rel=0.1)


@given(clients=st.integers(2, 32))
@settings(max_examples=15, deadline=None)
def test_more_clients_get_more_tokens_together_and_each_waits_longer(clients: int) -> None:
    fewer, more = (simulate_clients(load(), ENGINE, number, 400) for number in (clients // 2, clients))
    assert more.tokens_per_second > fewer.tokens_per_second
    assert more.total_p50 >= fewer.total_p50


@given(rate=st.floats(0.1, 20), engines=st.integers(1, 6), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_every_request_is_answered_and_no_engine_works_more_than_there_is_time(
    rate: float, engines: int, seed: int
) -> None:
    found = simulate(load(rate), ENGINE, engines, 200, seed)
    assert found.requests == 160  # all but the first fifth
    assert 0 < found.busy <= 1
    assert 0 < found.first_token_p50 <= found.first_token_p95 <= found.total_p95


def test_a_second_engine_shortens_the_line_of_a_busy_one() -> None:
    busy = load(least_engines(load(1.0), ENGINE) * 6.0)
    one, two = (simulate(busy, ENGINE, engines, 600) for engines in (1, 2))
    assert two.first_token_p95 < one.first_token_p95
    assert two.busy < one.busy


def test_adapters_that_fit_into_the_slots_are_loaded_once_each() -> None:
    found = simulate(load(2.0, adapters=8), ENGINE, 1, 1000)
    assert found.hit_ratio == pytest.approx(1 - 8 / 1000)


def test_more_adapters_than_slots_are_loaded_again_and_more_slots_spare_that() -> None:
    hits = [
        simulate(load(0.5, adapters=64), ENGINE.model_copy(update={"slots": slots}), 1, 1000).hit_ratio
        for slots in (4, 8, 64)
    ]
    assert hits == sorted(hits)
    assert hits[0] < 0.6 < hits[2]


FIGURES = Figures.model_validate(
    {
        "about": "an engine that does not exist",
        "engine": ENGINE.model_dump(),
        "gateway": {
            "named": 0.0003,
            "classified": 0.0007,
            "token": 0.00001,
            "redis_calls": 0.1,
            "dollars_per_hour": 0.04,
        },
        "retriever": {"search": 0.006, "chunk_bytes": 6000, "most_chunks": 1_000_000, "dollars_per_hour": 0.08},
        "redis": {"calls_per_second": 50_000, "dollars_per_hour": 0.02},
    }
)
TRUTH = Truth(
    about="by hand, from the step of that engine",
    runs=(
        Measured(
            name="one client",
            clients=1,
            path=PathLoad(share=1, prompt_tokens=60, completion_tokens=40),
            tokens_per_second=40 / (40 * 0.032 + 60 * 0.001),
            total_p50=40 * 0.032 + 60 * 0.001,
        ),
    ),
)


def test_what_was_measured_is_reproduced_by_the_figures_of_the_same_engine_and_of_no_other() -> None:
    assert all(one.agrees for one in beside(TRUTH, ENGINE))
    slower = ENGINE.model_copy(update={"step": 3 * ENGINE.step})
    assert not any(one.agrees for one in beside(TRUTH, slower))


def test_a_plan_keeps_first_tokens_has_its_spares_and_adds_up() -> None:
    made = plan(load(6.0, searches=1).model_copy(update={"chunks": 50_000, "spare": 2}), FIGURES)
    parts = {part.name: part for part in made.parts}
    assert made.engines.first_token_p95 <= 2.0
    assert parts["engines"].number >= least_engines(load(6.0), ENGINE) + 2
    assert parts["gateways"].number >= 3
    assert made.dollars_per_month == pytest.approx(sum(part.dollars_per_month for part in made.parts))
    assert made.dollars_per_1000 == pytest.approx(made.dollars_per_month / (6.0 * 730 * 3600) * 1000)


def test_what_is_too_much_for_all_engines_is_not_simulated() -> None:
    with pytest.raises(CommandError, match=r"20000 requests a second are the work of [\d,]+ engines, and at most 512"):
        plan(load(20_000), FIGURES)


def test_a_retriever_that_holds_more_costs_more() -> None:
    dollars = [
        next(part for part in plan(load(searches=1).model_copy(update={"chunks": chunks}), FIGURES).parts
             if part.name == "retriever").dollars_per_month
        for chunks in (0, 1_000_000, 50_000_000)
    ]  # fmt: skip
    assert dollars[1] == dollars[0]  # 6 of its 8 GiB
    assert dollars[2] == pytest.approx(35 * dollars[0])  # 279 GiB


def test_what_lifts_a_limit_is_named() -> None:
    big = load(1.0, adapters=500).model_copy(update={"chunks": 10**9})
    told = " ".join(plan(big, FIGURES).notes)
    assert "Milvus" in told
    assert "500 adapters do not all fit" in told


@pytest.fixture
def plans(cli: Cli, tmp_path: Path) -> Plans:
    """Runs the command on files of these contents."""

    def call(workload: dict[str, Any], *options: str, figures: Figures = FIGURES) -> Any:
        for name, written in (("w", workload), ("f", figures.model_dump()), ("t", TRUTH.model_dump(mode="json"))):
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(written))
        given = ("--figures", str(tmp_path / "f.yaml"), "--truth", str(tmp_path / "t.yaml"))
        return cli("capacity", str(tmp_path / "w.yaml"), *given, *options)

    return call


WORKLOAD = {
    "requests_per_second": 1.0,
    "first_token_seconds": 3.0,
    "paths": {"rag": {"share": 0.5, "prompt_tokens": 200, "completion_tokens": 40, "searches": 1},
              "lora": {"share": 0.5, "prompt_tokens": 60, "completion_tokens": 40, "adapters": 3}},
}  # fmt: skip


def test_the_command_says_what_it_stands_on_and_then_what_is_needed(plans: Plans) -> None:
    done = plans(WORKLOAD)
    assert done.code == 0, done.err
    assert "figures of: an engine that does not exist" in done.out
    assert "for 1,000 requests" in done.out
    told = json.loads(plans(WORKLOAD, "--json").out)
    assert {part["name"] for part in told["plan"]["parts"]} == {"engines", "gateways", "retriever", "redis"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"requests_per_second": 0}, "requests_per_second"),
        ({"requests_per_second": float("inf")}, "requests_per_second: Input should be a finite number"),
        ({"requests_per_second": 1e308}, "at most 512 are planned"),
        ({"paths": {"a": {"share": 0.5, "prompt_tokens": 1, "completion_tokens": 1}}}, "add up to 0.5"),
        ({"rps": 3}, "rps"),
        ({"first_token_seconds": 0.0001}, "engines do not keep first tokens"),
    ],
)
def test_what_cannot_be_is_refused_by_name(plans: Plans, change: dict[str, Any], told: str) -> None:
    done = plans(WORKLOAD | change)
    assert done.code != 0
    assert told in done.err


def test_a_key_that_stands_twice_is_refused(plans: Plans, cli: Cli, tmp_path: Path) -> None:
    plans(WORKLOAD)
    with (tmp_path / "w.yaml").open("a") as workload:
        workload.write("requests_per_second: 2\n")
    done = cli("capacity", tmp_path / "w.yaml", "--figures", tmp_path / "f.yaml", "--truth", tmp_path / "t.yaml")
    assert done.code == 1
    assert "'requests_per_second' stands twice" in done.err


def test_figures_that_do_not_reproduce_the_runs_plan_nothing(plans: Plans) -> None:
    slower = FIGURES.model_copy(update={"engine": ENGINE.model_copy(update={"step": 3 * ENGINE.step})})
    done = plans(WORKLOAD, figures=slower)
    assert done.code != 0
    assert "measure both on one machine" in done.err
