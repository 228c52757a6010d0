"""Load balancing: prefix affinity, bounded load, and priority for circuit breaker probes."""

import time
from collections import Counter

import pytest
from pointsman_gateway.config.engine_config import BreakerConfig
from pointsman_gateway.domain import Message, Path
from pointsman_gateway.engines.engine_state import Engine, EngineState
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.engines.failover import TargetQueue, hash_prefix

from tests.gateway.doubles.clocks import Clock

PLAIN = Path("plain", "tiny")
VERSION = "triage@3f9a1c0b77de"
ADAPTED = Path("adapted", "tiny", adapter=VERSION)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def states(clock: Clock) -> list[EngineState]:
    """Three engines, the first two of which hold an adapter."""
    return [
        EngineState(
            Engine(name, "tiny", f"http://{name}", ready=True, resident=frozenset({VERSION} if name != "c" else ())),
            clock,
        )
        for name in "abc"
    ]


@pytest.fixture
def engines(states: list[EngineState]) -> Engines:
    return Engines(states)


def choice(engines: Engines, key: int = 0, path: Path = PLAIN, bound: float = 1.25) -> str:
    target = TargetQueue(engines.targets(path), key, bound).take()
    assert target
    return target.engine.name


def key_of(number: int) -> int:
    return hash_prefix([Message("user", f"conversation {number}")])


def test_different_prompts_are_spread_over_all_engines(engines: Engines) -> None:
    spread = Counter(choice(engines, key_of(number)) for number in range(3000))
    assert all(850 < spread[name] < 1150 for name in "abc"), spread


def test_a_prompt_stays_with_its_engine(engines: Engines) -> None:
    for number in range(50):
        assert len({choice(engines, key_of(number)) for _ in range(5)}) == 1


def test_a_removed_engine_moves_only_its_own_prompts(engines: Engines, states: list[EngineState]) -> None:
    before = [choice(engines, key_of(number)) for number in range(300)]
    states[1].update(Engine("b", "tiny", ready=False))
    after = [choice(engines, key_of(number)) for number in range(300)]
    assert all(new == old for old, new in zip(before, after, strict=True) if old != "b")
    assert {new for old, new in zip(before, after, strict=True) if old == "b"} == {"a", "c"}


def test_a_common_prompt_is_still_distributed(engines: Engines, states: list[EngineState]) -> None:
    key = key_of(1)
    for _ in range(300):
        name = choice(engines, key)
        next(state for state in states if state.engine.name == name).in_flight += 1
        assert max(state.in_flight for state in states) <= 1.25 * sum(state.in_flight for state in states) / 3 + 1
    assert min(state.in_flight for state in states) > 0


def test_with_the_smallest_bound_the_least_loaded_engine_is_chosen(engines: Engines, states: list[EngineState]) -> None:
    states[0].in_flight, states[1].in_flight, states[2].in_flight = 7, 7, 2
    assert {choice(engines, key_of(number), bound=1.0) for number in range(50)} == {"c"}


def test_an_adapters_path_uses_only_engines_that_hold_it(engines: Engines, states: list[EngineState]) -> None:
    states[0].in_flight = states[1].in_flight = 50
    assert {choice(engines, key_of(number), ADAPTED) for number in range(50)} == {"a", "b"}


def test_an_engine_due_for_a_probe_gets_exactly_one_request(
    engines: Engines, states: list[EngineState], clock: Clock
) -> None:
    terms = BreakerConfig(consecutive_failures=1, open_duration_seconds=5)
    states[2].breaker.failed(states[2].breaker.enter(), terms)
    assert {choice(engines, key_of(number)) for number in range(50)} == {"a", "b"}
    clock.passes(5)
    assert {choice(engines, key_of(number)) for number in range(50)} == {"c"}
    states[2].breaker.enter()
    assert {choice(engines, key_of(number)) for number in range(50)} == {"a", "b"}


def test_each_engine_is_tried_once(engines: Engines) -> None:
    candidates = TargetQueue(engines.targets(PLAIN), 1, 1.25)
    taken = [target.engine.name for target in iter(candidates.take, None)]
    assert sorted(taken) == ["a", "b", "c"]
    assert not candidates.any_left


def test_a_long_system_prompt_alone_determines_the_prefix_hash() -> None:
    def conversation(system: str, first: str, *more: str) -> list[Message]:
        return [Message("system", system), Message("user", first), *(Message("assistant", text) for text in more)]

    long, short = "You are Wren. " * 100, "You are Wren."
    assert hash_prefix(conversation(long, "Hello")) == hash_prefix(conversation(long, "Good evening"))
    assert hash_prefix(conversation(short, "Hello")) != hash_prefix(conversation(short, "Good evening"))
    assert hash_prefix(conversation(long[:520], "Hello")) == hash_prefix(conversation(long[:520], "Good evening"))


def test_all_turns_of_a_conversation_have_the_same_prefix_hash() -> None:
    turns = [Message("system", "You are Wren."), Message("user", "Where is my umbrella?")]
    later = [*turns, Message("assistant", "Which train?"), Message("user", "The 9:40.")]
    assert hash_prefix(turns) == hash_prefix(later)
    assert hash_prefix(turns) != hash_prefix([turns[0], Message("user", "Where is my hat?")])
    assert hash_prefix([Message("user", "half a pair: \ud800")]) > 0


def test_a_choice_costs_microseconds() -> None:
    """The limit is far above the usual 3 microseconds, for busy machines; building a new structure per choice would
    exceed it."""
    engines = Engines([Engine(name, "tiny", ready=True) for name in "abc"])
    messages = [Message("system", "You are Wren. " * 50), Message("user", "Hello")]
    best = min(_seconds(engines, messages) for _ in range(20))
    assert best < 50e-6


def _seconds(engines: Engines, messages: list[Message]) -> float:
    started = time.perf_counter()
    for _ in range(100):
        TargetQueue(engines.targets(PLAIN), hash_prefix(messages), 1.25).take()
    return (time.perf_counter() - started) / 100
