"""`pointsman capacity`: the simulator's laws, the arithmetic around it, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pointsman_cli.capacity.command import FIGURES, RUNS
from pointsman_cli.capacity.figures import EngineFigures, read_figures
from pointsman_cli.capacity.plan import least_engines, plan
from pointsman_cli.capacity.simulator import simulate, simulate_clients
from pointsman_cli.capacity.truth import beside, read_truth
from pointsman_cli.capacity.workload import PathLoad, Workload

Cli = Callable[..., Any]

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


def test_the_figures_that_come_along_reproduce_what_was_measured() -> None:
    found = beside(read_truth(RUNS), read_figures(FIGURES).engine)
    assert {one.run for one in found if not one.fitted}  # some were not used for the figures
    assert [f"{one.run}: {one.off:+.0%}" for one in found if not one.agrees] == []


def test_a_plan_keeps_first_tokens_has_its_spares_and_adds_up() -> None:
    figures = read_figures(FIGURES).model_copy(update={"engine": ENGINE})
    made = plan(load(6.0, searches=1).model_copy(update={"chunks": 50_000, "spare": 2}), figures)
    parts = {part.name: part for part in made.parts}
    assert made.engines.first_token_p95 <= 2.0
    assert parts["engines"].number >= least_engines(load(6.0), ENGINE) + 2
    assert parts["gateways"].number >= 3
    assert made.dollars_per_month == pytest.approx(sum(part.dollars_per_month for part in made.parts))
    assert made.dollars_per_1000 == pytest.approx(made.dollars_per_month / (6.0 * 730 * 3600) * 1000)


def test_what_lifts_a_limit_is_named(tmp_path: Path) -> None:
    figures = read_figures(FIGURES)
    big = load(1.0, adapters=500).model_copy(update={"chunks": 10**9})
    told = " ".join(plan(big, figures.model_copy(update={"engine": ENGINE})).notes)
    assert "Milvus" in told
    assert "500 adapters do not all fit" in told


WORKLOAD = {
    "requests_per_second": 1.0,
    "first_token_seconds": 3.0,
    "paths": {"rag": {"share": 0.5, "prompt_tokens": 200, "completion_tokens": 40, "searches": 1},
              "lora": {"share": 0.5, "prompt_tokens": 60, "completion_tokens": 40, "adapters": 3}},
}  # fmt: skip


def test_the_command_says_what_it_stands_on_and_then_what_is_needed(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(yaml.safe_dump(WORKLOAD))
    done = cli("capacity", str(tmp_path / "w.yaml"))
    assert done.code == 0, done.err
    assert "figures of:" in done.out
    assert "for 1,000 requests" in done.out
    told = json.loads(cli("capacity", str(tmp_path / "w.yaml"), "--json").out)
    assert {part["name"] for part in told["plan"]["parts"]} == {"engines", "gateways", "retriever", "redis"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"requests_per_second": 0}, "requests_per_second"),
        ({"paths": {"a": {"share": 0.5, "prompt_tokens": 1, "completion_tokens": 1}}}, "add up to 0.5"),
        ({"rps": 3}, "rps"),
        ({"first_token_seconds": 0.0001}, "engines do not keep first tokens"),
    ],
)
def test_what_cannot_be_is_refused_by_name(cli: Cli, tmp_path: Path, change: dict[str, Any], told: str) -> None:
    (tmp_path / "w.yaml").write_text(yaml.safe_dump(WORKLOAD | change))
    done = cli("capacity", str(tmp_path / "w.yaml"))
    assert done.code != 0
    assert told in done.err


def test_figures_that_do_not_reproduce_the_runs_plan_nothing(cli: Cli, tmp_path: Path) -> None:
    figures = yaml.safe_load(FIGURES.read_text())
    figures["engine"]["step"] *= 3
    (tmp_path / "f.yaml").write_text(yaml.safe_dump(figures))
    (tmp_path / "w.yaml").write_text(yaml.safe_dump(WORKLOAD))
    done = cli("capacity", str(tmp_path / "w.yaml"), "--figures", str(tmp_path / "f.yaml"))
    assert done.code != 0
    assert "measure both on one machine" in done.err
