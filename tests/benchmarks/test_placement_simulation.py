"""The simulation of placement by demand: it uses the lora-server's own code, and demand is met with fewer loads."""

import random

import pytest

from benchmarks.placement.cases import CASES, Arrival, Load, arrivals
from benchmarks.placement.engine import Figures, SimulatedEngine
from benchmarks.placement.policies import ByDemand, ByNumber, Dynamo, DynamoMinCostFlow, replica_counts
from benchmarks.placement.simulation import simulate

FIGURES = Figures(held=5, in_batch=3)


@pytest.mark.parametrize("case", CASES)
def test_a_case_is_the_same_for_one_seed_and_has_the_stated_mean(case: str) -> None:
    load = Load(adapters=20, ticks=400, requests_per_tick=10.0)
    drawn = arrivals(case, load, 1)
    assert drawn == arrivals(case, load, 1) != arrivals(case, load, 2)
    assert drawn == sorted(drawn, key=lambda each: each.at)
    factors = CASES[case][0](load, random.Random(f"{case} 1"))
    assert len(drawn) == pytest.approx(10.0 * sum(factors), rel=0.05)


def test_an_engine_generates_as_fast_as_its_figures_say() -> None:
    engine = SimulatedEngine("one", Figures())
    for _ in range(16):
        engine.add(Arrival(0.0, 0, 1, 101), "a@1")
    began = engine.now
    while engine.in_flight:
        engine.step()
    assert 1600 / (engine.now - began) == pytest.approx(Figures().tokens_per_second, rel=0.05)


def test_a_batch_has_few_adapters_and_the_others_wait() -> None:
    engine = SimulatedEngine("one", Figures(held=8, in_batch=2, load=0.0, load_stall=0.0))
    for number in range(3):
        engine.add(Arrival(0.0, number, 1, 10), f"{number}@1")
    ended = []
    while engine.in_flight:
        ended += [(job.request.adapter, engine.now) for job in engine.step()]
    assert [adapter for adapter, _ in ended] == [0, 1, 2]
    assert ended[2][1] == pytest.approx(2 * ended[0][1], rel=0.2)


def test_placed_versions_are_evicted_last() -> None:
    engine = SimulatedEngine("one", Figures(held=2), placed=frozenset({"old@1"}))
    for version in ("old@1", "new@1", "other@1"):
        engine.load(version, 0.0)
    assert set(engine.held) == {"old@1", "other@1"}
    engine.placed = frozenset(engine.held)
    assert not engine.load("next@1", 0.0, may_displace_placed=False)


def test_dynamos_numbers_of_copies_fill_the_slots_in_proportion_to_the_load() -> None:
    assert replica_counts({"a": 60, "b": 30, "c": 10}, 12, 5) == {"a": 5, "b": 4, "c": 2}
    assert replica_counts({"a": 1, "b": 1, "c": 1}, 4, 4) == {"a": 2, "b": 1, "c": 1}
    assert replica_counts({"a": 5, "b": 1}, 1, 4) == {"a": 1}


@pytest.mark.parametrize("policy", [ByNumber, Dynamo, DynamoMinCostFlow, ByDemand])
def test_every_request_is_answered(policy: type) -> None:
    requests = arrivals("zipf", Load(adapters=30, ticks=40, requests_per_tick=15.0), 1)
    outcome = simulate(policy, requests, 4, FIGURES)
    assert outcome.requests == len(requests)
    assert outcome == simulate(policy, requests, 4, FIGURES)


def test_demand_is_met_with_fewer_loads_and_an_earlier_first_token() -> None:
    requests = arrivals("flash crowd", Load(adapters=40, ticks=100, requests_per_tick=20.0), 1)
    by_demand, by_number = (simulate(policy, requests, 4, FIGURES) for policy in (ByDemand, ByNumber))
    assert by_demand.loads < by_number.loads
    assert by_demand.first_token_p99 < by_number.first_token_p99
