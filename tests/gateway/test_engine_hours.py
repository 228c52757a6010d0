"""The hourly cost of an engine is allocated to the paths that used it, and their sum is the engine's price."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pointsman_gateway.domain.path import IDLE
from pointsman_gateway.metering.engine_hours import BusyInterval, EngineCostAllocator, EngineCosts

HOUR = 3600.0


def account(lag: float = 30.0, price: float = HOUR) -> EngineCostAllocator:
    """Returns an allocator for an engine that costs a dollar per second, so that dollars equal seconds."""
    return EngineCostAllocator(price, 0.0, lag)


def test_time_without_requests_is_idle() -> None:
    engine = account(price=2.0)
    engine.allocate(HOUR)
    assert engine.dollars == pytest.approx({IDLE: 2.0})


def test_a_single_request_pays_for_all_of_its_time() -> None:
    engine = account()
    engine.end(engine.begin("plain", 10.0), 13.0)
    engine.allocate(20.0)
    assert engine.dollars == pytest.approx({"plain": 3.0, IDLE: 17.0})


def test_concurrent_requests_share_time_evenly() -> None:
    engine = account()
    first = engine.begin("plain", 0.0)
    second = engine.begin("tuned", 2.0)
    engine.end(first, 6.0)
    engine.end(second, 8.0)
    engine.allocate(8.0)
    assert engine.dollars == pytest.approx({"plain": 2 + 2, "tuned": 2 + 2, IDLE: 0})


def test_time_in_the_engines_queue_is_not_charged() -> None:
    engine = account()
    first, second = engine.begin("plain", 0.0), engine.begin("tuned", 0.0)
    engine.end(first, 4.0, inference=4.0)
    engine.end(second, 6.0, inference=2.0)  # it had waited for four seconds
    engine.allocate(6.0)
    assert engine.dollars == pytest.approx({"plain": 4.0, "tuned": 2.0, IDLE: 0.0})


def test_an_impossible_report_of_an_engine_is_ignored() -> None:
    engine = account()
    engine.end(engine.begin("plain", 5.0), 6.0, inference=100.0)
    engine.allocate(10.0)
    assert engine.dollars == pytest.approx({"plain": 1.0, IDLE: 9.0})


def test_allocation_waits_for_open_intervals_up_to_the_lag() -> None:
    engine = account(lag=30.0)
    engine.begin("endless", 10.0)
    engine.allocate(20.0)
    assert engine.allocated_until == 10.0
    engine.allocate(100.0)
    assert engine.allocated_until == 70.0
    assert engine.dollars == pytest.approx({IDLE: 10.0, "endless": 60.0})


def test_a_new_price_applies_from_now_on() -> None:
    engine = account(price=HOUR)
    visit = engine.begin("plain", 0.0)
    engine.set_price(2 * HOUR, 10.0)
    engine.end(visit, 20.0)
    engine.allocate(20.0)
    assert engine.dollars == pytest.approx({"plain": 10.0 + 20.0, IDLE: 0.0})


@dataclass(frozen=True)
class Stay:
    path: str
    begin: float
    seconds: float
    worked: float | None
    """The share of the interval in which the engine worked, according to the engine; None if it does not report
    that."""


STAYS = st.lists(
    st.builds(
        Stay,
        st.sampled_from(["plain", "handbook", "tuned"]),
        st.floats(0, 100),
        st.floats(0, 200),
        st.none() | st.floats(0, 2),
    ),
    max_size=30,
)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(stays=STAYS, looks=st.lists(st.floats(0, 400), max_size=20), lag=st.floats(0.1, 60))
def test_paths_and_idle_time_always_add_up_to_the_price(
    stays: Sequence[Stay], looks: Sequence[float], lag: float
) -> None:
    engine = EngineCostAllocator(3.6, 0.0, lag)  # a thousandth of a dollar per second
    run(engine, stays, looks)
    engine.allocate(400.0)
    assert engine.allocated_until == 400.0
    assert sum(engine.dollars.values()) == pytest.approx(0.4, rel=1e-9)
    assert min(engine.dollars.values()) >= 0


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(stays=STAYS, looks=st.lists(st.floats(0, 400), max_size=20))
@example(stays=[Stay("plain", 4.0, 5.0, 2.0**-52)], looks=[])
def test_shares_equal_their_definition_and_do_not_depend_on_reads(
    stays: Sequence[Stay], looks: Sequence[float]
) -> None:
    """This holds as long as no interval is open for longer than `lag`."""
    engine = EngineCostAllocator(HOUR, 0.0, max_lag=1000.0)
    run(engine, stays, looks)
    engine.allocate(400.0)
    owed = by_definition(stays)
    nobody = dict.fromkeys([*owed, *engine.dollars], 0.0)  # an interval may be too short for one of the two to count
    assert nobody | engine.dollars == pytest.approx(nobody | owed, abs=1e-9)


def run(engine: EngineCostAllocator, stays: Sequence[Stay], looks: Sequence[float]) -> None:
    """Replays the intervals in the order of time."""
    events: list[tuple[float, int, Stay | None]] = [(stay.begin, 0, stay) for stay in stays]
    events += [(stay.begin + stay.seconds, 1, stay) for stay in stays]
    events += [(look, 2, None) for look in looks]
    visits: dict[int, BusyInterval] = {}
    for at, sort, stay in sorted(events, key=lambda event: event[:2]):
        if stay is None:
            engine.allocate(at)
        elif sort == 0:
            visits[id(stay)] = engine.begin(stay.path, at)
        else:
            engine.end(visits.pop(id(stay)), at, None if stay.worked is None else stay.worked * stay.seconds)


def by_definition(stays: Sequence[Stay]) -> dict[str, float]:
    """Computes the shares from their definition: each moment's cost is divided evenly among the paths that are
    working.
    """
    work = [(max(s.begin, s.begin + s.seconds * (1 - (1 if s.worked is None else s.worked))), s) for s in stays]
    spans = [(begin, s.begin + s.seconds, s.path) for begin, s in work if s.begin + s.seconds > begin]
    edges = sorted({0.0, 400.0, *(begin for begin, _, _ in spans), *(end for _, end, _ in spans)})
    owed = {IDLE: 0.0}
    for begin, end in pairwise(edges):
        at_work = [path for b, e, path in spans if b <= begin and end <= e]
        for path in at_work or [IDLE]:
            owed[path] = owed.get(path, 0.0) + (end - begin) / max(1, len(at_work))
    return owed


def test_unknown_paths_are_reported_as_other_and_unpriced_engines_are_omitted() -> None:
    now = [0.0]
    accounts = EngineCosts(lambda: now[0])
    accounts.apply_config(lambda: {"local": HOUR}, ["plain"])
    assert accounts.begin("elsewhere", "plain") is None
    for path in ("plain", "adapter:junk"):
        stay = accounts.begin("local", path)
        now[0] += 2
        assert stay is not None
        accounts.end(stay, None)
    accounts.apply_config(dict, [])  # it was removed from the configuration
    now[0] += 100
    (family,) = accounts.collect()
    seen = {(s.labels["engine"], s.labels["path"]): s.value for s in family.samples}
    assert seen == pytest.approx({("local", "plain"): 2, ("local", "other"): 2, ("local", IDLE): 0})
