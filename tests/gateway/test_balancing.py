"""Load balancing: prefix affinity, bounded load, and priority for circuit breaker probes."""

import time
from collections import Counter

import pytest
from pointsman_gateway.config.engine_config import BreakerConfig
from pointsman_gateway.domain import Message, Path
from pointsman_gateway.engines.balancing import NO_KEY, PromptKey, Rings, SpillTargets, TargetQueue, hash_prompt
from pointsman_gateway.engines.engine_state import Engine, EngineState
from pointsman_gateway.engines.engines import Engines

from tests.gateway.doubles.clocks import Clock

PLAIN = Path("plain", "tiny")
VERSION = "triage@3f9a1c0b77de"
LONG = "You are Wren. " * 100
ADAPTED = Path("adapted", "tiny", adapter=VERSION)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def states(clock: Clock) -> list[EngineState]:
    """Returns three engines, the first two of which hold an adapter."""
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


def choice(
    engines: Engines,
    key: PromptKey = NO_KEY,
    path: Path = PLAIN,
    bound: float = 1.25,
    spilled: SpillTargets | None = None,
) -> str:
    target = TargetQueue(engines.targets(path), key, bound, spilled).take()
    assert target
    return target.engine.name


def key_of(number: int, system: str = "") -> PromptKey:
    messages = [Message("system", system), Message("user", f"conversation {number}")]
    return hash_prompt(messages, messages)


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
    candidates = TargetQueue(engines.targets(PLAIN), key_of(1), 1.25)
    taken = [target.engine.name for target in iter(candidates.take, None)]
    assert sorted(taken) == ["a", "b", "c"]
    assert not candidates.any_left


def test_conversations_with_one_system_prompt_are_spread_over_all_engines(engines: Engines) -> None:
    spread = Counter(choice(engines, key_of(number, LONG)) for number in range(3000))
    assert all(850 < spread[name] < 1150 for name in "abc"), spread


def test_only_a_long_system_prompt_is_hashed_alone_too() -> None:
    assert key_of(1, LONG).shared == key_of(2, LONG).shared != key_of(1, LONG[1:]).shared
    assert key_of(1, LONG).shared != key_of(1, LONG).conversation
    assert key_of(1, "You are Wren.").shared == key_of(1, "You are Wren.").conversation


def test_all_turns_of_a_conversation_have_the_same_hash() -> None:
    turns = [Message("system", "You are Wren."), Message("user", "Where is my umbrella?")]
    later = [*turns, Message("assistant", "Which train?"), Message("user", "The 9:40.")]
    other = [turns[0], Message("user", "Where is my hat?")]
    assert hash_prompt(turns, turns) == hash_prompt(later, later) != hash_prompt(other, other)
    torn = [Message("user", "half a pair: \ud800")]
    assert hash_prompt(torn, torn).conversation > 0


def test_examples_in_the_prompt_do_not_make_all_conversations_one() -> None:
    examples = [Message("user", "Refund?"), Message("assistant", "refund")]
    keys = {hash_prompt([*examples, question], [question]) for question in (Message("user", "A"), Message("user", "B"))}
    assert len(keys) == 2


def test_conversations_spill_to_one_engine_that_has_their_system_prompt(
    engines: Engines, states: list[EngineState]
) -> None:
    here = [key for number in range(300) if choice(engines, key := key_of(number, LONG)) == "a"]
    states[0].in_flight = 9
    assert len({choice(engines, key) for key in here}) == 1
    assert len({choice(engines, key_of(number)) for number in range(100)}) == 2


def test_a_conversation_stays_where_it_has_spilled_to(engines: Engines, states: list[EngineState]) -> None:
    spilled, key = SpillTargets(), next(key for n in range(99) if choice(engines, key := key_of(n, LONG)) == "a")
    states[0].in_flight = 9
    target = choice(engines, key, spilled=spilled)
    states[0].in_flight = 0
    assert choice(engines, key, spilled=spilled) == target != "a"
    next(state for state in states if state.engine.name == target).in_flight = 9
    assert choice(engines, key, spilled=spilled) == "a"
    for state in states:
        state.in_flight = 0
    assert choice(engines, key, spilled=spilled) == "a"


def test_a_conversation_leaves_an_engine_that_has_gone(engines: Engines, states: list[EngineState]) -> None:
    spilled, key = SpillTargets(), next(key for n in range(99) if choice(engines, key := key_of(n, LONG)) == "a")
    states[0].in_flight = 9
    target = choice(engines, key, spilled=spilled)
    states[0].in_flight = 0
    next(state for state in states if state.engine.name == target).update(Engine(target, "tiny", ready=False))
    assert choice(engines, key, spilled=spilled) == "a"
    assert len(spilled) == 0


def test_the_oldest_spill_targets_are_forgotten() -> None:
    spilled = SpillTargets(max_conversations=2)
    for conversation in (1, 2, 1, 3):
        spilled.remember(conversation, 10 * conversation)
    assert [spilled.seed_of(conversation) for conversation in (1, 2, 3)] == [10, None, 30]


def test_a_choice_costs_microseconds() -> None:
    """The limit is far above the usual 3 microseconds, for busy machines; building a new structure per choice would
    exceed it.
    """
    engines = Engines([Engine(name, "tiny", ready=True) for name in "abc"])
    messages = [Message("system", "You are Wren. " * 50), Message("user", "Hello")]
    best = min(_seconds(engines, messages) for _ in range(20))
    assert best < 50e-6


def _seconds(engines: Engines, messages: list[Message]) -> float:
    started = time.perf_counter()
    for _ in range(100):
        TargetQueue(engines.targets(PLAIN), hash_prompt(messages, messages), 1.25).take()
    return (time.perf_counter() - started) / 100


# -- many engines


@pytest.fixture
def many(clock: Clock) -> list[EngineState]:
    return [EngineState(Engine(f"engine-{number}", "tiny", ready=True), clock) for number in range(200)]


def choose(engines: Engines, rings: Rings, number: int, spilled: SpillTargets | None = None) -> EngineState:
    targets = engines.targets(PLAIN)
    ring = rings.of(targets)
    assert ring is not None
    target = TargetQueue(targets, key_of(number, LONG), 1.25, spilled, ring).take()
    assert target is not None
    return target.state


def test_prompts_are_spread_over_many_engines(many: list[EngineState]) -> None:
    engines, rings = Engines(many), Rings()
    spread = Counter(choose(engines, rings, number).engine.name for number in range(20_000))
    assert len(spread) == 200
    assert all(40 < count < 180 for count in spread.values()), spread


def test_one_of_many_engines_that_goes_moves_only_its_own_prompts(many: list[EngineState]) -> None:
    engines, rings = Engines(many), Rings()
    before = [choose(engines, rings, number) for number in range(2000)]
    many[7].update(Engine("engine-7", "tiny", ready=False))
    after = [choose(engines, rings, number) for number in range(2000)]
    assert all(new is old for old, new in zip(before, after, strict=True) if old is not many[7])
    assert many[7] in before
    assert many[7] not in after


def test_none_of_many_engines_gets_more_than_the_bound(many: list[EngineState]) -> None:
    engines, rings, spilled = Engines(many), Rings(), SpillTargets()
    for number in range(4000):
        choose(engines, rings, number % 50, spilled).in_flight += 1
        if number % 100 == 0:
            mean = sum(state.in_flight for state in many) / 200
            assert max(state.in_flight for state in many) <= 1.25 * mean + 1
    assert sum(state.in_flight > 0 for state in many) > 150


def test_each_of_many_engines_is_tried_once(many: list[EngineState]) -> None:
    targets = Engines(many).targets(PLAIN)
    queue = TargetQueue(targets, key_of(1), 1.25, None, Rings().of(targets))
    assert {target.state for target in iter(queue.take, None)} == set(many)
    assert not queue.any_left


def test_a_conversation_stays_where_it_has_spilled_to_among_many_engines(many: list[EngineState]) -> None:
    engines, rings, spilled = Engines(many), Rings(), SpillTargets()
    home = choose(engines, rings, 1, spilled)
    home.in_flight = 9
    rings = Rings()  # the mean is computed again
    target = choose(engines, rings, 1, spilled)
    home.in_flight = 0
    assert choose(engines, rings, 1, spilled) is target is not home


def test_few_engines_need_no_ring(engines: Engines) -> None:
    assert Rings().of(engines.targets(PLAIN)) is None
