"""An adapter that no engine holds is loaded once for all waiting requests, or the request falls back in time."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from pointsman_servicekit.errors import FailedPrecondition, ResourceExhausted, Unavailable

from tests.gateway.doubles.api_clients import ApiClient, HttpStreamClient, open_api_client
from tests.gateway.doubles.config_folder import IN_TRIAGE
from tests.gateway.doubles.engine_pair import (
    NEW,
    OLD,
    PROD,
    EnginePair,
    Side,
    alias,
    answer_with_model_name,
    run_engine_pair,
)
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.lora_server import READY, running_lora_server
from tests.gateway.doubles.waiting import until

PATH = "path:triage_adapter"


@pytest.fixture
async def gateway(neighbours: Neighbours) -> AsyncIterator[Gateway]:
    """Runs a gateway whose engine holds no adapter; its lora-server can load the alias's version and another one."""
    # A hundred connections are opened at once, in the process of this test: on a busy machine that takes seconds.
    neighbours.config.models["resilience"] = {
        "adapter_load_timeout_seconds": 5,
        "timeouts": {"connect_seconds": 30},
    }
    neighbours.engine.script = answer_with_model_name()
    neighbours.engine.adapters = set()
    neighbours.lora_server.loads = holding(neighbours)
    aliases = {PROD: alias(OLD, 1)}
    await neighbours.lora_server.say(READY, url=neighbours.engine.url, loadable=[OLD, NEW], aliases=aliases)
    async with neighbours.gateway() as gateway:
        yield gateway


def holding(neighbours: Neighbours) -> Callable[[str], Any]:
    """Returns a `loads` function after which the engine holds the version."""

    async def load(version: str) -> None:
        assert neighbours.engine.adapters is not None
        neighbours.engine.adapters.add(version)

    return load


def hanging(gate: asyncio.Event, neighbours: Neighbours) -> Callable[[str], Any]:
    async def load(version: str) -> None:
        await gate.wait()
        await holding(neighbours)(version)

    return load


def raising(error: Exception) -> Callable[[str], Any]:
    async def load(version: str) -> None:
        raise error

    return load


@pytest.mark.parametrize("model", ["auto", PATH, PROD, OLD, NEW])
async def test_a_loadable_adapter_is_loaded_and_answers(
    api: ApiClient, gateway: Gateway, neighbours: Neighbours, model: str
) -> None:
    version = NEW if model == NEW else OLD
    assert (await api.route(IN_TRIAGE, model))["notes"][-1:] == [f"{version}: loads on demand"]
    assert (await api.ask(IN_TRIAGE, model)).model == version
    assert (await api.ask(IN_TRIAGE, model)).model == version
    assert neighbours.lora_server.ensured == [version]
    assert gateway.metric("pointsman_adapter_loads_total", engine="local", outcome="loaded") == 1
    assert gateway.metric("pointsman_phase_duration_seconds_count", phase="adapter") == 1
    assert "loads on demand" not in str((await api.route(IN_TRIAGE, model))["notes"])


async def test_loadable_adapters_are_listed(api: ApiClient) -> None:
    assert {PROD, OLD, NEW} < set(await api.models())


async def test_a_hundred_requests_at_once_load_it_once(gateway: Gateway, neighbours: Neighbours) -> None:
    gate = asyncio.Event()
    neighbours.lora_server.loads = hanging(gate, neighbours)
    async with open_http_client(gateway) as client:
        api = HttpStreamClient(client)
        asking = [asyncio.create_task(api.ask(IN_TRIAGE, PATH)) for _ in range(100)]
        await until(lambda: gateway.metric("pointsman_in_flight") == 100 and neighbours.lora_server.ensured)
        gate.set()
        assert {got.model for got in await asyncio.gather(*asking)} == {OLD}
    assert neighbours.lora_server.ensured == [OLD]
    assert [body["model"] for body in neighbours.engine.bodies] == [OLD] * 100


async def test_a_disconnecting_client_does_not_cancel_the_load_for_others(
    gateway: Gateway, neighbours: Neighbours
) -> None:
    gate = asyncio.Event()
    neighbours.lora_server.loads = hanging(gate, neighbours)
    async with open_http_client(gateway) as client:
        api = HttpStreamClient(client)
        first = asyncio.create_task(api.ask(IN_TRIAGE, PATH))
        await until(lambda: neighbours.lora_server.ensured)
        second = asyncio.create_task(api.ask(IN_TRIAGE, PATH))
        await until(lambda: gateway.metric("pointsman_in_flight") == 2)
        first.cancel()
        await until(lambda: gateway.metric("pointsman_requests_total", outcome="cancelled") == 1)
        gate.set()
        assert (await second).model == OLD
    assert neighbours.lora_server.ensured == [OLD]


@pytest.mark.parametrize(
    "error",
    [
        FailedPrecondition("it has failed its checks", code="not_ready"),
        ResourceExhausted("every slot is pinned", code="no_slot"),
        Unavailable("the engine is down", code="engine_unavailable"),
    ],
)
async def test_after_a_failed_load_the_fallback_answers_and_a_cooldown_applies(
    api: ApiClient, gateway: Gateway, neighbours: Neighbours, error: Exception
) -> None:
    neighbours.lora_server.loads = raising(error)
    assert (await api.ask(IN_TRIAGE)).path == "triage_few_shot"
    decision = await api.route(IN_TRIAGE)
    assert (decision["path"], decision["reason"]) == ("triage_few_shot", "availability")
    assert "could just now not be loaded on local" in decision["considered"][0]["reason"]
    with pytest.raises(Unavailable) as raised:
        await api.ask(IN_TRIAGE, OLD)
    assert raised.value.code == "adapter_not_resident"
    assert neighbours.lora_server.ensured == [OLD]
    assert gateway.metric("pointsman_adapter_loads_total", outcome="refused") == 1


async def test_a_hanging_load_is_bounded_by_its_timeout(neighbours: Neighbours) -> None:
    neighbours.config.models["resilience"] = {"adapter_load_timeout_seconds": 0.3}
    neighbours.engine.script = answer_with_model_name()
    neighbours.lora_server.loads = hanging(asyncio.Event(), neighbours)
    aliases = {PROD: alias(OLD, 1)}
    await neighbours.lora_server.say(READY, url=neighbours.engine.url, loadable=[OLD], aliases=aliases)
    async with neighbours.gateway() as gateway, open_api_client("grpc", gateway.url, gateway.grpc_address) as api:
        began = time.perf_counter()
        got = await api.ask(IN_TRIAGE)
        assert got.path == "triage_few_shot"
        assert 0.3 <= time.perf_counter() - began < 3
        assert gateway.metric("pointsman_phase_duration_seconds_sum", phase="adapter") >= 0.3
        await until(lambda: gateway.metric("pointsman_adapter_loads_total", outcome="late") == 1)
        assert (await api.route(IN_TRIAGE))["path"] == "triage_few_shot"


async def test_a_load_is_bounded_by_the_requests_deadline(gateway: Gateway, neighbours: Neighbours) -> None:
    neighbours.lora_server.loads = hanging(asyncio.Event(), neighbours)
    async with open_http_client(gateway) as client:
        body = {"model": OLD, "messages": [{"role": "user", "content": "x"}]}
        late = await client.post("/v1/chat/completions", json=body, headers={"x-request-timeout": "0.2"})
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")


# -- two engines


def side_loads(side: Side) -> None:
    """Makes the lora-server load versions into its own engine."""
    side.engine.adapters = set()

    async def load(version: str) -> None:
        assert side.engine.adapters is not None
        side.engine.adapters.add(version)

    side.lora_server.loads = load


@pytest.fixture
async def pair(neighbours: Neighbours) -> AsyncIterator[EnginePair]:
    """Yields two engines that hold no adapter and can load both versions."""
    offered = {"local": (OLD, NEW), "second": (OLD, NEW)}
    async with run_engine_pair(neighbours, {}, offered) as pair:
        for side in pair.sides.values():
            side_loads(side)
        yield pair


@pytest.fixture
async def pair_api(pair: EnginePair) -> AsyncIterator[HttpStreamClient]:
    async with open_http_client(pair.gateway) as client:
        yield HttpStreamClient(client)


def ensured(pair: EnginePair) -> dict[str, list[str]]:
    return {name: side.lora_server.ensured for name, side in pair.sides.items()}


async def test_all_gateways_choose_the_same_engine_for_a_load(
    pair: EnginePair, pair_api: HttpStreamClient, neighbours: Neighbours
) -> None:
    await asyncio.gather(*(pair_api.ask(IN_TRIAGE, OLD) for _ in range(20)))
    (first,) = [name for name, versions in ensured(pair).items() if versions]
    for side in pair.sides.values():
        side.lora_server.ensured.clear()
        await side.say(alias(OLD, 1), [], [OLD, NEW])
    async with neighbours.gateway() as other, open_http_client(other) as client:
        await until(lambda: all(other.components.engines.get(name).ready for name in pair.sides))
        assert (await HttpStreamClient(client).ask(IN_TRIAGE, OLD)).model == OLD
    assert {name: versions for name, versions in ensured(pair).items() if versions} == {first: [OLD]}


async def test_if_one_engine_cannot_load_the_other_does(pair: EnginePair, pair_api: HttpStreamClient) -> None:
    refused: list[str] = []

    def refusing_first(side: Side) -> Callable[[str], Any]:
        load = side.lora_server.loads

        async def loads(version: str) -> None:
            if not refused:
                refused.append(version)
                raise ResourceExhausted("every slot is in use", code="no_slot")
            await load(version)

        return loads

    for side in pair.sides.values():
        side.lora_server.loads = refusing_first(side)
    assert (await pair_api.ask(IN_TRIAGE, PATH)).model == OLD
    assert sorted(ensured(pair).values()) == [[OLD], [OLD]]
    assert pair.gateway.metric("pointsman_fallbacks_total") == 0


async def hold(pair: EnginePair, *names: str) -> None:
    """Publishes that these engines hold the version."""
    for name in names:
        side = pair.sides[name]
        side.engine.adapters = {OLD}
        await side.say(alias(OLD, 1), [OLD], [NEW])
    await until(lambda: all(pair.holds(name) == {OLD} for name in names))


async def test_an_engine_that_has_just_evicted_an_adapter_loads_it_again(
    pair: EnginePair, pair_api: HttpStreamClient
) -> None:
    await hold(pair, "local")
    pair.sides["local"].engine.adapters = set()
    assert (await pair_api.ask(IN_TRIAGE, PATH)).model == OLD
    assert sum(len(versions) for versions in ensured(pair).values()) == 1
    assert pair.gateway.metric("pointsman_adapter_evicted_total", engine="local") == 1
    assert pair.gateway.metric("pointsman_engine_breaker_opened_total") == 0


async def test_an_engine_that_holds_the_adapter_is_preferred_to_a_load(
    pair: EnginePair, pair_api: HttpStreamClient
) -> None:
    await hold(pair, "local", "second")
    evicted, other = "local", "second"
    pair.gateway.components.engines.state(other).in_flight += 100  # so `evicted` is asked first
    pair.sides[evicted].engine.adapters = set()
    assert (await pair_api.ask(IN_TRIAGE, PATH)).model == OLD
    assert pair.sides[evicted].asked == pair.sides[other].asked == [OLD]
    assert ensured(pair) == {"local": [], "second": []}
    assert pair.holds(evicted) == frozenset()
    await pair.sides[evicted].say(alias(OLD, 1), [OLD], [NEW])
    await until(lambda: pair.holds(evicted) == {OLD})


async def test_an_eviction_under_load_fails_no_request(pair: EnginePair, pair_api: HttpStreamClient) -> None:
    await hold(pair, "local", "second")
    for _ in range(5):
        for side in pair.sides.values():
            side.engine.adapters = set()  # before its lora-server reports the eviction
        answers = await asyncio.gather(*(pair_api.ask(IN_TRIAGE, PATH) for _ in range(40)))
        assert {got.model for got in answers} == {OLD}
    assert pair.gateway.metric("pointsman_fallbacks_total") == 0
    assert pair.gateway.metric("pointsman_retries_total") == 0


async def test_an_engine_without_the_reported_adapter_is_skipped_after_two_retries(
    pair: EnginePair, pair_api: HttpStreamClient
) -> None:
    await hold(pair, "local")
    for side in pair.sides.values():

        async def load(version: str) -> None:
            """Reports that the version was loaded, without loading it."""

        side.engine.adapters = set()
        side.lora_server.loads = load
    got = await pair_api.ask(IN_TRIAGE)
    assert got.path == "triage_few_shot"
    assert len([model for side in pair.sides.values() for model in side.asked if model == OLD]) == 3


async def test_an_adapter_evicted_right_after_its_load_is_loaded_again(
    pair: EnginePair, pair_api: HttpStreamClient
) -> None:
    """The gateway may receive the eviction before the answer of EnsureLoaded."""
    evictions: list[str] = []

    def evicting_once(side: Side) -> Callable[[str], Any]:
        load = side.lora_server.loads

        async def loads(version: str) -> None:
            await load(version)
            if not evictions:
                evictions.append(version)
                assert side.engine.adapters is not None
                side.engine.adapters.discard(version)

        return loads

    for side in pair.sides.values():
        side.lora_server.loads = evicting_once(side)
    assert (await pair_api.ask(IN_TRIAGE, PATH)).model == OLD
    assert sum(len(versions) for versions in ensured(pair).values()) == 2


async def test_an_engine_removed_from_the_configuration_during_a_load_is_skipped(
    gateway: Gateway, neighbours: Neighbours
) -> None:
    neighbours.lora_server.loads = hanging(asyncio.Event(), neighbours)
    async with open_http_client(gateway) as client:
        asking = asyncio.create_task(HttpStreamClient(client).ask(IN_TRIAGE))
        await until(lambda: neighbours.lora_server.ensured)
        neighbours.config.models["engines"] = {
            "other": {"model": "tiny", "url": neighbours.engine.url},
            "adapted": {"model": "tiny", "lora_server": "127.0.0.1:1"},
        }
        neighbours.config.write()
        await gateway.components.reloader.reload()
        assert (await asking).path == "triage_few_shot"


async def test_a_version_retired_during_a_request_leads_to_the_fallback(
    pair: EnginePair, pair_api: HttpStreamClient
) -> None:
    await hold(pair, "local")
    for side in pair.sides.values():
        side.engine.adapters = set()
        side.lora_server.loads = raising(FailedPrecondition("it is retired", code="not_ready"))
    assert (await pair_api.ask(IN_TRIAGE)).path == "triage_few_shot"


async def test_a_dead_lora_server_delays_requests_only_briefly(neighbours: Neighbours) -> None:
    neighbours.engine.script = answer_with_model_name()
    async with AsyncExitStack() as outer:
        async with AsyncExitStack() as until_it_dies:
            neighbours.lora_server = await until_it_dies.enter_async_context(running_lora_server())
            aliases = {PROD: alias(OLD, 1)}
            await neighbours.lora_server.say(READY, url=neighbours.engine.url, loadable=[OLD], aliases=aliases)
            gateway = await outer.enter_async_context(neighbours.gateway())
        client = await outer.enter_async_context(open_http_client(gateway))
        began = time.perf_counter()
        assert (await HttpStreamClient(client).ask(IN_TRIAGE)).path == "triage_few_shot"
        assert time.perf_counter() - began < 3
        assert gateway.metric("pointsman_adapter_loads_total", outcome="away") == 1
