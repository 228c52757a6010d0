"""Resilience to failing and slow engines before the first token: retries, cooldowns, probes, hedging and timeouts."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from pointsman_gateway.config.engine_config import BreakerConfig, Timeouts
from pointsman_gateway.config.models_file import ResilienceConfig, RetryConfig
from pointsman_gateway.domain import Chunks, Decision, Message, Path, Prompt, Request
from pointsman_gateway.engines.balancing import TargetQueue, hash_prompt
from pointsman_gateway.engines.engine_settings import EngineSettings
from pointsman_gateway.engines.engine_state import Engine, EngineState
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.engines.metrics import EngineMetrics, EngineStates
from pointsman_gateway.engines.stage import EngineBackend
from pointsman_gateway.metering.attempts import PathAttempt
from pointsman_gateway.ports import AnswerStream
from pointsman_servicekit.errors import DeadlineExceeded, InvalidArgument, Unavailable
from prometheus_client import CollectorRegistry

from tests.gateway.doubles.clients import ScriptedClient, chunks_of
from tests.gateway.doubles.clocks import Clock
from tests.gateway.doubles.waiting import until

PLAIN = Path("plain", "tiny")
DECISION = Decision("d1", "chat", 0.9, PLAIN, "policy:fixed", "encoder", (), ())
PROMPT = Prompt((Message("user", "Hello"),))

PROMPT_RETRIES = RetryConfig(backoff_seconds=0.0)


class Bench:
    """Engines wrapped in the layers of retries, hedging and circuit breakers."""

    def __init__(self, *names: str, **resilience: Any) -> None:
        config = ResilienceConfig(**({"retries": PROMPT_RETRIES} | resilience))
        self.clock = Clock()
        self.client = ScriptedClient()
        self.states = {
            name: EngineState(Engine(name, "tiny", f"http://{name}", ready=True), self.clock)
            for name in names or ("a", "b")
        }
        plans = {name: EngineSettings(config.timeouts, config.breaker) for name in self.states}
        self.engines = Engines(list(self.states.values()), plans)
        self.registry = CollectorRegistry()
        self.registry.register(EngineStates(lambda: self.engines.states))
        metrics = EngineMetrics(self.registry)
        self._backends = EngineBackend(self.engines, self.client, asyncio.get_running_loop().time, config, metrics)

    async def call(self, seconds: float = 30.0) -> AnswerStream:
        deadline = asyncio.get_running_loop().time() + seconds
        request, self.record = Request("auto", PROMPT.messages, deadline=deadline), PathAttempt(PLAIN, 0.0)
        return await self._backends.call(request, DECISION, PROMPT, self.record)

    async def ask(self, seconds: float = 30.0) -> str:
        return text_of([chunks async for chunks in chunks_of((await self.call(seconds)).source)])

    def first(self) -> str:
        """The engine that is chosen first for the test's prompt; the other one is `second`."""
        return self._order()[0]

    def second(self) -> str:
        return self._order()[1]

    def _order(self) -> list[str]:
        candidates = TargetQueue(self.engines.targets(PLAIN), hash_prompt(PROMPT.messages, PROMPT.messages), 1.25)
        return [target.engine.name for target in iter(candidates.take, None)]

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"pointsman_{name}", labels) or 0.0


def text_of(all_chunks: list[Chunks]) -> str:
    return "".join(chunk.content for chunks in all_chunks for chunk in chunks)


# -- the next engine


@pytest.mark.parametrize("status", [0, 401, 404, 429, 500, 502, 503, 504])
async def test_a_failure_is_retried_on_the_next_engine(status: int) -> None:
    bench = Bench()
    first, second = bench.first(), bench.second()
    bench.client.fails(first, status)
    assert await bench.ask() == "hello"
    assert bench.client.asked == [first, second]
    assert bench.metric("retries_total", engine=first, outcome="sent") == 1


async def test_an_unreachable_single_engine_is_retried() -> None:
    bench = Bench("a")
    bench.client.fails("a", 503)
    with pytest.raises(Unavailable, match="engine 'a' answered 503"):
        await bench.ask()
    assert bench.client.asked == ["a", "a", "a"]


@pytest.mark.parametrize("status", [401, 404, 429, 500])
async def test_an_error_response_of_a_single_engine_is_not_retried(status: int) -> None:
    bench = Bench("a")
    bench.client.fails("a", status)
    with pytest.raises(Unavailable):
        await bench.ask()
    assert bench.client.asked == ["a"]


async def test_each_of_two_engines_is_tried_once() -> None:
    bench = Bench()
    bench.client.fails("a", 503)
    bench.client.fails("b", 503)
    with pytest.raises(Unavailable, match=f"engine '{bench.second()}' answered 503"):
        await bench.ask()
    assert sorted(bench.client.asked) == ["a", "b"]


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_callers_error_is_reported_at_once_and_counts_against_no_engine(status: int) -> None:
    bench = Bench(breaker=BreakerConfig(consecutive_failures=1))
    bench.client.fails("a", status)
    bench.client.fails("b", status)
    for _ in range(3):
        with pytest.raises(InvalidArgument):
            await bench.ask()
    assert len(bench.client.asked) == 3
    assert all(state.breaker.closed for state in bench.states.values())


async def test_retries_stop_when_the_budget_is_spent() -> None:
    bench = Bench(
        "a",
        "b",
        "c",
        retries=RetryConfig(budget_ratio=0.0, min_retries=3, backoff_seconds=0.0),
        breaker=BreakerConfig(enabled=False),
    )
    for name in "abc":
        bench.client.fails(name, 500)
    for _ in range(5):
        with pytest.raises(Unavailable):
            await bench.ask()
    assert len(bench.client.asked) == 5 + 3
    assert sum(bench.metric("retries_total", engine=name, outcome="refused") for name in "abc") == 4


async def test_the_pause_before_a_retry_never_goes_past_the_deadline() -> None:
    bench = Bench("a", retries=RetryConfig(max_retries=10, backoff_seconds=10, max_backoff_seconds=60))
    bench.client.fails("a", 503)
    with pytest.raises(DeadlineExceeded):
        await bench.ask(seconds=1e-4)


# -- an engine that is left alone


async def test_repeated_failures_open_the_breaker() -> None:
    bench = Bench(breaker=BreakerConfig(consecutive_failures=3))
    first = bench.first()
    bench.client.fails(first, 0)
    for _ in range(10):
        assert await bench.ask() == "hello"
    assert bench.client.asked.count(first) == 3
    assert bench.metric("engine_breaker_opened_total", engine=first) == 1
    assert bench.metric("engine_breaker_open", engine=first) == 1


async def test_with_all_breakers_open_requests_are_rejected_with_a_retry_time() -> None:
    bench = Bench("a", breaker=BreakerConfig(consecutive_failures=1, open_duration_seconds=7))
    bench.client.fails("a", 500)
    with pytest.raises(Unavailable, match="answered 500"):
        await bench.ask()
    assert bench.engines.why_not(PLAIN) == "a has failed and is tried again in 7 s"
    assert not bench.engines.any_ready
    with pytest.raises(Unavailable, match="path 'plain': a has failed and is tried again in 7 s") as raised:
        await bench.ask()
    assert (raised.value.code, raised.value.retry_after) == ("breaker_open", 7)
    assert len(bench.client.asked) == 1


async def test_after_the_cooldown_a_probe_closes_the_breaker() -> None:
    bench = Bench("a", breaker=BreakerConfig(consecutive_failures=1, open_duration_seconds=7))
    bench.client.fails("a", 500)
    with pytest.raises(Unavailable):
        await bench.ask()
    bench.client.says("a", "back")
    bench.clock.passes(7)
    assert bench.engines.any_ready
    assert bench.engines.why_not(PLAIN) is None
    assert await bench.ask() == "back"
    assert bench.metric("engine_breaker_open", engine="a") == 0


async def test_during_a_probe_other_requests_use_other_engines() -> None:
    bench = Bench("a", breaker=BreakerConfig(consecutive_failures=1, open_duration_seconds=7))
    bench.client.fails("a", 500)
    with pytest.raises(Unavailable):
        await bench.ask()
    go_on = asyncio.Event()
    bench.client.says("a", go_on, "back")
    bench.clock.passes(7)
    trial = asyncio.create_task(bench.ask())
    await until(lambda: bench.client.running["a"])
    with pytest.raises(Unavailable, match="a has failed and is being tried again"):
        await bench.ask()
    go_on.set()
    assert await trial == "back"


async def test_a_probe_of_a_hanging_engine_is_answered_by_another() -> None:
    bench = Bench(breaker=BreakerConfig(consecutive_failures=1, open_duration_seconds=7, max_open_duration_seconds=60))
    first, second = bench.first(), bench.second()
    bench.client.fails(first, 0)
    await bench.ask()
    bench.client.says(first, asyncio.Event())
    bench.clock.passes(7)
    asking = asyncio.create_task(bench.ask())
    await until(lambda: bench.client.running[first])
    bench.clock.passes(1)
    assert await asking == "hello"
    assert bench.client.asked[-2:] == [first, second]
    assert bench.states[first].breaker.cooldown_left == 14  # its probe has failed
    assert bench.client.running[first] == 0


async def test_an_overloaded_engine_is_skipped_for_its_retry_after() -> None:
    bench = Bench(breaker=BreakerConfig(consecutive_failures=1))
    first, second = bench.first(), bench.second()
    bench.client.fails(first, 429, retry_after=9)
    for _ in range(3):
        assert await bench.ask() == "hello"
    assert bench.client.asked == [first, second, second, second]
    assert bench.states[first].breaker.closed
    bench.client.says(first, "rested")
    bench.clock.passes(9)
    assert await bench.ask() == "rested"


async def test_if_all_are_overloaded_the_shortest_wait_is_reported() -> None:
    bench = Bench()
    bench.client.fails("a", 429, retry_after=9)
    bench.client.fails("b", 429, retry_after=1000000)
    with pytest.raises(Unavailable):
        await bench.ask()
    with pytest.raises(
        Unavailable, match="a is overloaded and asks for 9 s; b is overloaded and asks for 30 s"
    ) as raised:
        await bench.ask()
    assert (raised.value.code, raised.value.retry_after) == ("engine_overloaded", 9)


async def test_a_stream_that_breaks_counts_against_its_engine() -> None:
    bench = Bench("a", breaker=BreakerConfig(consecutive_failures=2))
    cut = Unavailable("engine 'a' failed: reset", code="engine_unavailable")
    bench.client.says("a", "hel", cut)
    for _ in range(2):
        with pytest.raises(Unavailable, match="reset"):
            await bench.ask()
    assert bench.client.asked == ["a", "a"]  # never after the first token
    # Each began well, so the failures are not consecutive; only the failure rate opens the breaker.
    bench.states["a"].breaker.failed(bench.states["a"].breaker.enter(), BreakerConfig(consecutive_failures=2))
    assert not bench.states["a"].breaker.closed


# -- time


async def test_a_first_token_timeout_leads_to_the_next_engine() -> None:
    bench = Bench(timeouts=Timeouts(first_token_seconds=0.05), breaker=BreakerConfig(consecutive_failures=1))
    first = bench.first()
    bench.client.says(first, asyncio.Event())
    assert await bench.ask() == "hello"
    assert bench.metric("engine_attempts_total", engine=first, outcome="first_token_timeout") == 1
    assert bench.metric("engine_breaker_open", engine=first) == 1
    assert bench.client.running[first] == 0


async def test_a_single_slow_engines_error_names_the_timeout() -> None:
    bench = Bench("a", timeouts=Timeouts(first_token_seconds=0.05))
    bench.client.says("a", asyncio.Event())
    with pytest.raises(Unavailable, match=r"engine 'a' failed: no first token within 0.05 s") as raised:
        await bench.ask()
    assert raised.value.code == "first_token_timeout"
    assert bench.client.asked == ["a"]


async def test_one_deadline_covers_all_attempts() -> None:
    bench = Bench("a", "b", "c", timeouts=Timeouts(first_token_seconds=0.05))
    for name in "abc":
        bench.client.says(name, asyncio.Event())
    with pytest.raises(DeadlineExceeded):
        await bench.ask(seconds=0.07)
    assert len(bench.client.asked) == 2
    assert sum(bench.client.running.values()) == 0


async def test_the_client_gets_the_configured_timeouts() -> None:
    bench = Bench("a", timeouts=Timeouts(connect_seconds=1, first_token_seconds=2, stream_idle_seconds=3))
    await bench.ask()
    assert bench.client.calls[0].timeouts == Timeouts(connect_seconds=1, first_token_seconds=2, stream_idle_seconds=3)


async def test_disconnects_from_a_hanging_engine_count_against_it() -> None:
    """Clients may give up before the first token's timeout; otherwise such an engine would never be detected."""
    bench = Bench("a", breaker=BreakerConfig(consecutive_failures=2))
    bench.client.says("a", asyncio.Event())
    for _ in range(2):
        await given_up(bench, after=6)
    assert not bench.states["a"].breaker.closed


async def test_disconnects_from_a_busy_engine_do_not_count_against_it() -> None:
    bench = Bench("a", breaker=BreakerConfig(consecutive_failures=1))
    go_on = asyncio.Event()
    bench.client.says("a", go_on, "hello")
    waiting = asyncio.create_task(bench.call())
    await until(lambda: bench.client.running["a"])
    bench.clock.passes(6)
    other = asyncio.create_task(bench.call())
    go_on.set()
    answer = await other
    assert bench.states["a"].breaker.closed
    answer.source.close()
    (await waiting).source.close()
    bench.client.says("a", asyncio.Event())
    await given_up(bench, after=1)  # too early to conclude anything
    assert bench.states["a"].breaker.closed


async def given_up(bench: Bench, after: float) -> None:
    asking = asyncio.create_task(bench.ask())
    await until(lambda: bench.client.running["a"])
    bench.clock.passes(after)
    asking.cancel()
    await asyncio.wait([asking])
    assert bench.client.running["a"] == 0


# -- hedging


async def test_a_late_first_token_starts_a_hedge() -> None:
    bench = Bench(hedge_after_seconds=0.02)
    first, second = bench.first(), bench.second()
    bench.client.says(first, asyncio.Event())
    answer = await bench.call()
    assert bench.client.asked == [first, second]
    assert bench.client.running[first] == 0  # let go of
    assert bench.record.unanswered == 1
    assert text_of([chunks async for chunks in chunks_of(answer.source)]) == "hello"
    assert bench.metric("hedges_total", engine=first, outcome="won") == 1


async def test_the_first_engine_may_still_win() -> None:
    bench = Bench(hedge_after_seconds=0.02)
    first, second = bench.first(), bench.second()
    go_on = asyncio.Event()
    bench.client.says(first, go_on, "at last")
    bench.client.says(second, asyncio.Event())
    asking = asyncio.create_task(bench.ask())
    await until(lambda: bench.client.running[second])
    go_on.set()
    assert await asking == "at last"
    assert bench.client.running[second] == 0
    assert bench.metric("hedges_total", engine=first, outcome="lost") == 1


async def test_a_fast_engine_is_never_hedged() -> None:
    bench = Bench(hedge_after_seconds=30)
    await bench.call()
    assert bench.record.unanswered == 0
    assert len(bench.client.asked) == 1


async def test_hedges_need_retry_budget() -> None:
    bench = Bench(hedge_after_seconds=0.01, retries=RetryConfig(budget_ratio=0, min_retries=0))
    first, second = bench.first(), bench.second()
    go_on = asyncio.Event()
    bench.client.says(first, go_on, "slow")
    asking = asyncio.create_task(bench.ask())
    await until(lambda: bench.metric("hedges_total", engine=first, outcome="refused"))
    go_on.set()
    assert await asking == "slow"
    assert second not in bench.client.asked


async def test_an_engine_that_loses_every_hedge_silently_is_skipped() -> None:
    bench = Bench(hedge_after_seconds=0.01, breaker=BreakerConfig(consecutive_failures=2))
    first = bench.first()
    bench.client.says(first, asyncio.Event())
    for _ in range(2):
        asking = asyncio.create_task(bench.ask())
        await until(lambda: bench.client.running[first])
        bench.clock.passes(0.01)
        assert await asking == "hello"
    assert not bench.states[first].breaker.closed


async def test_if_both_engines_fail_the_last_error_is_reported() -> None:
    bench = Bench(hedge_after_seconds=0.01, retries=RetryConfig(max_retries=0))
    first, second = bench.first(), bench.second()
    go_on = asyncio.Event()
    bench.client.says(first, go_on, Unavailable("slow and broken", code="engine_error"))
    bench.client.fails(second, 500)
    asking = asyncio.create_task(bench.ask())
    await until(lambda: bench.metric("engine_attempts_total", engine=second, outcome="engine_error"))
    await until(lambda: bench.states[second].in_flight == 0)
    go_on.set()
    with pytest.raises(Unavailable, match="slow and broken"):
        await asking


async def test_a_disconnect_stops_both_engines() -> None:
    bench = Bench(hedge_after_seconds=0.01)
    bench.client.says("a", asyncio.Event())
    bench.client.says("b", asyncio.Event())
    asking = asyncio.create_task(bench.ask())
    await until(lambda: bench.client.running["a"] and bench.client.running["b"])
    asking.cancel()
    await asyncio.wait([asking])
    assert sum(bench.client.running.values()) == 0
    assert sum(state.in_flight for state in bench.states.values()) == 0


# -- what an engine is busy with


async def test_an_engine_is_busy_from_request_to_end_of_answer() -> None:
    bench = Bench("a")
    go_on = asyncio.Event()
    bench.client.says("a", "hel", go_on, "lo")
    answer = await bench.call()
    assert bench.metric("engine_in_flight", engine="a") == 1
    go_on.set()
    assert text_of([chunks async for chunks in chunks_of(answer.source)]) == "hello"
    assert bench.metric("engine_in_flight", engine="a") == 0
    assert bench.metric("engine_attempts_total", engine="a", outcome="ok") == 1


async def test_an_engine_is_released_however_its_answer_ends() -> None:
    bench = Bench("a")
    bench.client.says("a", "hel", asyncio.Event())
    async with aclosing(chunks_of((await bench.call()).source)) as chunks:  # type: ignore[type-var]  # a generator's
        await anext(chunks)
    (await bench.call()).source.close()  # and never read
    assert bench.states["a"].in_flight == 0
    assert bench.metric("engine_attempts_total", engine="a", outcome="cancelled") == 2
