"""The comparison of simulated placement with real engines: engines that share cores, the fit of their times, and the
values that are compared. No engine is started here.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from benchmarks.adapters.streaming_client import Answer
from benchmarks.gateway_load.machine import CannotMeasure
from benchmarks.placement.calibration import (
    ALONE,
    TOGETHER,
    ClosedLoop,
    LoadTimes,
    LoopResult,
    figures_of,
    fit_speeds,
    fit_steps,
    stalls,
    summary,
)
from benchmarks.placement.cases import Arrival, Load, arrivals
from benchmarks.placement.cpu_use import CpuUse
from benchmarks.placement.engine import Figures, SimulatedEngine
from benchmarks.placement.policies import ByDemand
from benchmarks.placement.processors import SharedCores
from benchmarks.placement.prompts import PromptMaker
from benchmarks.placement.real import Calibration, Measured, compare, outcome_of, table
from benchmarks.placement.simulation import World, by_conversation, simulate

FIGURES = Figures(step=0.1, row=0.01, prompt_token=0.002, load=0.4, load_stall=0.1, held=2, in_batch=2)
SPEEDS = (1.0, 0.6, 0.5, 0.4)


def fleet_of(engines: int, held: tuple[str, ...] = ("a@1",)) -> dict[str, SimulatedEngine]:
    fleet = {f"engine-{number}": SimulatedEngine(f"engine-{number}", FIGURES) for number in range(engines)}
    for engine in fleet.values():
        engine.held = dict.fromkeys(held, 0.0)
    return fleet


def first_tokens(fleet: dict[str, SimulatedEngine], speeds: tuple[float, ...], version: str = "a@1") -> list[float]:
    """Sends a request for the adapter `version` to each engine at 0 s of simulated time. Returns the seconds after
    which each engine sends its first token.
    """
    cores = SharedCores(fleet, speeds)
    for name, engine in fleet.items():
        list(cores.advance(0.0))
        engine.add(Arrival(0.0, 0, 50, 1), version)
        cores.start(name, 0.0)
    return [job.first_token for job in cores.advance(float("inf"))]


def test_engines_that_share_cores_slow_each_other_down() -> None:
    assert first_tokens(fleet_of(1), SPEEDS) == pytest.approx([0.2])
    assert first_tokens(fleet_of(2), SPEEDS) == pytest.approx([0.2 / 0.6] * 2)
    assert first_tokens(fleet_of(4), SPEEDS) == pytest.approx([0.2 / 0.4] * 4)


def test_an_engine_speeds_up_when_another_one_becomes_idle() -> None:
    fleet = fleet_of(2)
    cores = SharedCores(fleet, (1.0, 0.5))
    for name, tokens in (("engine-0", 1), ("engine-1", 2)):
        fleet[name].add(Arrival(0.0, 0, 50, tokens), "a@1")
        cores.start(name, 0.0)
    ended = [job.ended for job in cores.advance(float("inf"))]
    assert ended == pytest.approx([0.4, 0.4 + 0.11])


def test_without_slowdown_shared_cores_are_machines_of_ones_own() -> None:
    requests = arrivals("zipf", Load(adapters=2, ticks=30, requests_per_tick=3.0), 1)
    figures = replace(FIGURES, load=0.0, load_stall=0.0)
    shared = World(partial(SharedCores, speeds=(1.0, 1.0, 1.0)))
    own = simulate(ByDemand, requests, 3, figures)
    assert simulate(ByDemand, requests, 3, figures, shared).first_token_p50 == pytest.approx(own.first_token_p50)


def test_a_load_stalls_an_engine_only_while_it_generates() -> None:
    assert first_tokens(fleet_of(1), SPEEDS, "b@1") == pytest.approx([0.4 + 0.2])


def test_a_request_does_not_wait_for_the_load_of_another_ones_adapter() -> None:
    fleet = fleet_of(1)
    cores = SharedCores(fleet, SPEEDS)
    for adapter, version in enumerate(("b@1", "a@1")):
        fleet["engine-0"].add(Arrival(0.0, adapter, 50, 1), version)
        cores.start("engine-0", 0.0)
    assert [job.version for job in cores.advance(float("inf"))] == ["a@1", "b@1"]


def test_a_load_takes_longer_while_engines_are_busy() -> None:
    fleet = fleet_of(3)
    cores = SharedCores(fleet, SPEEDS)
    for name in ("engine-0", "engine-1"):
        fleet[name].add(Arrival(0.0, 0, 50, 50), "a@1")
        cores.start(name, 0.0)
    list(cores.advance(0.1))
    fleet["engine-2"].load("b@1", 0.1)
    assert fleet["engine-2"].held["b@1"] == pytest.approx(0.1 + 0.4 / 0.6)


def test_a_simulation_starts_with_what_the_engines_hold() -> None:
    requests = [Arrival(1.0, 0, 50, 1), Arrival(2.0, 1, 50, 1)]
    names = ["b@1", "c@1"]
    assert simulate(ByDemand, requests, 2, FIGURES, World(versions=names)).loads == 2
    held = World(versions=names, held={"engine-0": ["b@1"], "engine-1": ["c@1"]})
    assert simulate(ByDemand, requests, 2, FIGURES, held).loads == 0


def test_a_conversation_goes_to_an_engine_that_is_not_above_the_bound() -> None:
    fleet, choose = fleet_of(3), by_conversation(1)
    assert {choose(list(fleet), fleet) for _ in range(50)} == set(fleet)
    for _ in range(4):
        fleet["engine-1"].add(Arrival(0.0, 0, 50, 1), "a@1")
    assert {choose(list(fleet), fleet) for _ in range(50)} == {"engine-0", "engine-2"}


def measured_loops() -> list[LoopResult]:
    """Returns what the loops would measure on engines with the times of `FIGURES` and speeds of `SPEEDS`."""
    results = []
    for loop in (*ALONE, *TOGETHER):
        generated = loop.clients * ((loop.tokens - 1) * FIGURES.row + loop.prompt * FIGURES.prompt_token) / loop.tokens
        speed = SPEEDS[loop.engines - 1]
        first = 0.03 + FIGURES.step + loop.prompt * FIGURES.prompt_token
        results.append(LoopResult(loop, loop.clients * speed / (FIGURES.step + generated), first / speed))
    return results


def test_times_and_speeds_are_fitted() -> None:
    times = fit_steps(measured_loops())
    assert times == pytest.approx({"step": 0.1, "row": 0.01, "prompt_token": 0.002, "request": 0.03}, rel=1e-6)
    assert fit_speeds(measured_loops(), 4) == pytest.approx(SPEEDS)


def test_a_stall_is_stated_at_the_speed_of_an_engine_alone() -> None:
    loads = LoadTimes(idle=(0.3, 0.4, 0.5), busy=(1.0,), stalls=(0.2, 0.25, 0.9))
    figures = figures_of(measured_loops(), loads, held=2, in_batch=2)
    assert (figures.load, figures.load_stall) == pytest.approx((0.4, 0.25 * 0.4))


def answer(version: str, chunks: tuple[float, ...], started: float = 0.0) -> Answer:
    return Answer(version, "", started, chunks[-1], 200, tuple((at, "word") for at in chunks))


def test_a_stall_is_the_longest_gap_on_the_engine_that_loads() -> None:
    answers = [answer("a@1", (1.0, 1.1, 1.2, 1.6, 1.7)), answer("b@1", (1.0, 1.1, 1.2, 1.3, 1.4))]
    found = stalls(answers, {"a@1": "engine-0", "b@1": "engine-1"}, [("engine-0", 1.3, 1.5), ("engine-1", 1.3, 1.5)])
    assert found == pytest.approx([0.3, 0.0])


def test_a_loop_is_summed_up() -> None:
    found = summary(ClosedLoop(1, 2, 48, 4), [answer("a@1", (0.5, 1.0)), answer("b@1", (0.7, 1.0))])
    assert (found.tokens_per_second, found.first_token) == pytest.approx((8.0, 0.6))


def test_prompts_have_the_wanted_length_and_no_two_are_alike() -> None:
    maker = PromptMaker(30)
    prompts = [maker.prompt(50) for _ in range(200)]
    assert {len(prompt.split()) for prompt in prompts} == {20}
    assert len(set(prompts)) == 200
    assert len(maker.prompt(10).split()) == 1


REQUESTS = arrivals("zipf", Load(adapters=8, ticks=20, requests_per_tick=3.0), 1, 48.0, 4.0)
CALIBRATION = Calibration(FIGURES, SPEEDS, "a machine")


def measured() -> Measured:
    versions = tuple(f"word{number}@1" for number in range(8))
    answers = [answer("", (request.at + 0.5, request.at + 0.6), request.at) for request in REQUESTS]
    outcome = outcome_of(answers, loads=12, began=0.0)
    return Measured(outcome, 0, [0.5] * len(answers), versions, {"engine-0": [versions[0]]}, {"demand": 1.0}, 0.8, 0.1)


def test_measured_and_simulated_values_are_of_one_kind() -> None:
    outcome = measured().outcome
    assert (outcome.requests, outcome.loads) == (len(REQUESTS), 12)
    assert (outcome.first_token_p50, outcome.first_token_p99) == pytest.approx((0.5, 0.5))
    comparison = compare(REQUESTS, measured(), CALIBRATION)
    assert comparison.simulated.requests == len(REQUESTS)
    assert comparison.lowest.loads <= comparison.simulated.loads <= comparison.highest.loads
    assert comparison.ratio("loads") == 12 / comparison.simulated.loads
    assert "more than 20% off" in table("zipf", comparison)


def test_a_calibration_is_kept_in_a_file(tmp_path: Path) -> None:
    CALIBRATION.write(tmp_path / "folder/figures.json")
    assert Calibration.read(tmp_path / "folder/figures.json") == CALIBRATION
    with pytest.raises(CannotMeasure, match="--calibrate"):
        Calibration.read(tmp_path / "missing.json")


def test_processor_time_of_other_processes_is_told_apart() -> None:
    before = CpuUse.now()
    sum(number * number for number in range(3_000_000))
    own, others = CpuUse.now().shares_since(before)
    assert own > 0
    assert others >= 0
