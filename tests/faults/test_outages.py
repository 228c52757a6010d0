"""Outages and hangs under load, as listed in docs/resilience.md: no request hangs with the failed service."""

import asyncio
import time
from collections.abc import Sequence

from tests.gateway.doubles.config_folder import IN_CHAT, IN_POLICY, IN_TRIAGE
from tests.gateway.doubles.deployment import Deployment
from tests.gateway.doubles.load import Outcome, under_load
from tests.gateway.doubles.process_lora_server import OTHER, VERSION, ProcessLoraServer
from tests.gateway.doubles.processes import Process
from tests.gateway.doubles.request_logs import decisions_in
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found

DEADLINE = 8.0
SLACK = 8.0
"""Seconds by which a busy machine may delay something."""


def ok(outcome: Outcome) -> bool:
    return outcome.ok


def none_hung(outcomes: Sequence[Outcome]) -> None:
    assert outcomes
    assert [outcome for outcome in outcomes if outcome.seconds > DEADLINE + SLACK] == []


def only_cut(outcomes: Sequence[Outcome], code: str, clients: int) -> None:
    """Asserts that only answers that had begun on the failed engine were lost, with an error."""
    lost = [outcome for outcome in outcomes if not outcome.ok]
    assert [outcome for outcome in lost if not (outcome.begins and outcome.code == code)] == []
    assert len(lost) <= clients


async def left_alone(deployment: Deployment, engine: str) -> None:
    async def opened() -> bool:
        return await deployment.gateway.metric("pointsman_engine_breaker_open", engine=engine) == 1

    await found(opened, within=30)


async def test_one_engine_of_two_is_killed(deployment: Deployment) -> None:
    async with under_load(deployment.gateway.url, IN_CHAT, clients=8, deadline=DEADLINE) as load:
        await load.more(20, ok)
        await deployment.engines["a"].kill()
        await load.more(300)
        await left_alone(deployment, "a")
        asked = await deployment.gateway.metric(
            "pointsman_engine_attempts_total", engine="a", outcome="engine_unavailable"
        )
        assert asked <= 8 + 5 + 5  # requests in flight, those that opened its circuit breaker, and occasional probes
        await deployment.engines["a"].start()
        await load.more(1, lambda outcome: outcome.text.startswith("a"))
    none_hung(load.outcomes)
    only_cut(load.outcomes, "engine_unavailable", clients=8)


async def test_one_engine_of_two_hangs(deployment: Deployment) -> None:
    async with under_load(deployment.gateway.url, IN_CHAT, clients=8, deadline=DEADLINE) as load:
        await load.more(20, ok)
        deployment.engines["a"].hang()
        await left_alone(deployment, "a")
        alone = time.monotonic()
        await load.more(300)
        # At most one request per second is slow because of a probe; without a breaker each would be.
        late = [outcome for outcome in load.since(alone) if outcome.seconds > 0.9]
        assert len(late) < 0.1 * len(load.since(alone))
        deployment.engines["a"].go_on()
        await load.more(1, lambda outcome: outcome.text.startswith("a"))
    none_hung(load.outcomes)
    only_cut(load.outcomes, "stream_idle_timeout", clients=8)


async def test_redis_hangs_and_is_killed(deployment: Deployment) -> None:
    async with under_load(deployment.gateway.url, IN_CHAT, clients=4, deadline=DEADLINE) as load:
        await load.more(20)
        deployment.valkey.hang()
        await load.more(100)
        deployment.valkey.go_on()
        deployment.valkey.kill()
        await load.more(100)
        await deployment.valkey.start()
        before = len(await decisions_in(deployment.valkey.url))

        async def written_again() -> bool:
            return len(await decisions_in(deployment.valkey.url)) > before + 20

        await found(written_again, within=30)
    none_hung(load.outcomes)
    assert [outcome for outcome in load.outcomes if not outcome.ok] == []


async def test_the_retriever_hangs_and_is_killed(deployment: Deployment) -> None:
    """The path `handbook` requires passages; the default path `safe_start` answers without them."""

    def with_passages(outcome: Outcome) -> bool:
        return outcome.path == "handbook"

    def without(outcome: Outcome) -> bool:
        return outcome.path == "safe_start"

    async with under_load(deployment.gateway.url, IN_POLICY, clients=4, deadline=DEADLINE) as load:
        await load.more(10, with_passages)
        deployment.retriever.hang()
        await load.more(200, without)
        late = [outcome for outcome in load.outcomes if outcome.seconds > 1.8]
        assert len(late) < 0.3 * len(load.outcomes)  # no more requests to it, except occasional probes
        deployment.retriever.go_on()
        await load.more(10, with_passages)
        await deployment.retriever.kill()
        await load.more(100, without)
        await deployment.retriever.start()
        await load.more(10, with_passages)
    none_hung(load.outcomes)
    assert [outcome for outcome in load.outcomes if not outcome.ok] == []


async def test_the_lora_server_hangs_and_is_killed(deployment: Deployment) -> None:
    """The engine keeps serving loaded adapters; changes are received once the lora-server is back."""

    def adapted(outcome: Outcome) -> bool:
        return outcome.path == "triage_adapter" and outcome.model == VERSION

    async with under_load(deployment.gateway.url, IN_TRIAGE, clients=4, deadline=DEADLINE) as load:
        await load.more(10, adapted)  # the gateway has received its engine's state
        hung = time.monotonic()
        deployment.lora_server.hang()
        await load.more(100)
        await deployment.lora_server.kill()
        await load.more(100)
        assert [outcome for outcome in load.since(hung) if not adapted(outcome)] == []
        following = ProcessLoraServer(
            deployment.folder, deployment.engines["adapted"].url, version=OTHER, address=deployment.lora_server.address
        )
        try:
            await following.start()
            await load.more(10, lambda outcome: outcome.model == OTHER)
        finally:
            await following.kill()
    none_hung(load.outcomes)
    assert [outcome for outcome in load.outcomes if not outcome.ok] == []


CLEAR = {
    "breaker_open",
    "connect_timeout",
    "deadline_exceeded",
    "engine_unavailable",
    "first_token_timeout",
    "stream_idle_timeout",
    "retriever_unavailable",
}


async def test_everything_hangs_at_once_and_is_killed(deployment: Deployment) -> None:
    """Errors are fast and clear, no request exceeds its deadline, and everything recovers."""
    gateway = deployment.gateway

    def told_to_come_again(outcome: Outcome) -> bool:
        if outcome.code not in ("breaker_open", "retriever_unavailable"):
            return False
        return outcome.status == 503 and int(outcome.retry_after) >= 1

    everything: list[Process | Valkey] = [
        *deployment.engines.values(),
        deployment.retriever,
        deployment.valkey,
        deployment.lora_server,
    ]
    async with (
        under_load(gateway.url, IN_POLICY, clients=4, deadline=DEADLINE) as policy,
        under_load(gateway.url, IN_TRIAGE, clients=4, deadline=DEADLINE) as triage,
    ):
        await asyncio.gather(policy.more(10, ok), triage.more(10, ok))
        for process in everything:
            process.hang()
        stopped = time.monotonic()
        await asyncio.gather(policy.more(20, told_to_come_again), triage.more(20, told_to_come_again))
        quick = [outcome for load in (policy, triage) for outcome in load.since(stopped) if told_to_come_again(outcome)]
        assert sorted(outcome.seconds for outcome in quick)[len(quick) // 2] < 1.0
        assert (await gateway.look("/healthz"))[0] == 200
        for process in everything:
            process.go_on()
        await asyncio.gather(policy.more(10, ok), triage.more(10, ok))
        assert await found(gateway.is_ready, within=30)
        for killed in (*deployment.engines.values(), deployment.retriever, deployment.lora_server):
            await killed.kill()
        deployment.valkey.kill()
        await asyncio.gather(policy.more(20, told_to_come_again), triage.more(20, told_to_come_again))

        async def not_ready() -> bool:
            return not await gateway.is_ready()

        await found(not_ready, within=30)
    for load in (policy, triage):
        none_hung(load.outcomes)
        assert {outcome.code for outcome in load.outcomes if not outcome.ok} <= CLEAR
