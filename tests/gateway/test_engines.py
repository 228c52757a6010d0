"""The gateway's view of its engines, as reported by their lora-servers."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial

import pytest
from pointsman_gateway.config.engine_config import BreakerConfig, Timeouts
from pointsman_gateway.config.providers import DEFAULT_API
from pointsman_gateway.domain import Path
from pointsman_gateway.engines.engine_settings import EngineSettings
from pointsman_gateway.engines.engine_state import Engine, EngineState
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.engines.lora_server import watch_engine
from pointsman_gateway.engines.metrics import EngineMetrics
from pointsman_servicekit.errors import Unavailable
from prometheus_client import CollectorRegistry

from tests.gateway.doubles.lora_server import DOWN, READY, STARTING, ScriptedLoraServer, running_lora_server
from tests.gateway.doubles.waiting import until

PLAIN = Path("plain", "tiny")
ADAPTED = Path("adapted", "tiny", adapter="triage@prod")
URL = "http://127.0.0.1:8101"
METRICS = EngineMetrics(CollectorRegistry())
VERSION, NEXT = "triage@3f9a1c0b77de", "triage@0123456789ab"


@pytest.fixture
async def engines(lora_server: ScriptedLoraServer) -> AsyncIterator[Engines]:
    engines = Engines([Engine("local", "tiny", api=replace(DEFAULT_API, auth_header="authorization: Bearer sk-1\r\n"))])
    following = asyncio.create_task(watch_engine(engines, "local", address=lora_server.address, metrics=METRICS))
    await until(lambda: lora_server.watchers)
    yield engines
    following.cancel()
    await asyncio.wait([following])


async def test_an_engine_is_not_ready_before_it_reports_so(engines: Engines, lora_server: ScriptedLoraServer) -> None:
    await until(lambda: engines.get("local").detail == "loading weights")
    assert not engines.any_ready
    assert engines.why_not(PLAIN) == "no engine for 'tiny' is ready: local: loading weights"
    with pytest.raises(Unavailable, match="path 'plain': no engine for 'tiny' is ready") as raised:
        engines.targets(PLAIN)
    assert (raised.value.code, raised.value.retry_after) == ("engine_not_ready", 5.0)


async def test_an_alias_resolves_to_the_loaded_version(engines: Engines, lora_server: ScriptedLoraServer) -> None:
    await lora_server.say(READY, url=URL + "/", resident=[VERSION], aliases={"triage@prod": VERSION})
    await until(lambda: engines.any_ready)
    (target,) = engines.targets(ADAPTED)
    assert (target.model, target.engine.url, target.engine.api.auth_header) == (
        VERSION,
        URL,
        "authorization: Bearer sk-1\r\n",
    )
    assert [target.model for target in engines.targets(PLAIN)] == ["tiny"]


async def test_a_changed_alias_resolves_to_the_new_version_at_once(
    engines: Engines, lora_server: ScriptedLoraServer
) -> None:
    for version in (VERSION, NEXT):
        await lora_server.say(READY, url=URL, resident=[VERSION, NEXT], aliases={"triage@prod": version})
        await until(partial(lambda wanted: engines.version_of(ADAPTED) == wanted, version))
        assert engines.targets(ADAPTED)[0].model == version
    assert engines.targets(Path("p", "tiny", adapter=VERSION))[0].model == VERSION  # by its own name still


async def test_an_alias_of_a_version_that_is_not_loaded_does_not_resolve(
    engines: Engines, lora_server: ScriptedLoraServer
) -> None:
    await lora_server.say(READY, url=URL, resident=[VERSION], aliases={"triage@prod": NEXT})
    await until(lambda: engines.any_ready)
    assert engines.why_not(ADAPTED) == "adapter 'triage@prod' is not resident on any engine"
    with pytest.raises(Unavailable) as raised:
        engines.targets(ADAPTED)
    assert raised.value.code == "adapter_not_resident"


async def test_an_engine_that_is_down_is_excluded(engines: Engines, lora_server: ScriptedLoraServer) -> None:
    await lora_server.say(READY, url=URL)
    await until(lambda: engines.any_ready)
    await lora_server.say(DOWN, detail="exited with code 1; starting again in 4 s")
    await until(lambda: not engines.any_ready)
    assert "exited with code 1" in (engines.why_not(PLAIN) or "")


async def test_an_engine_that_serves_another_model_is_never_used(
    engines: Engines, lora_server: ScriptedLoraServer
) -> None:
    await lora_server.say(READY, url=URL, base_model="huge")
    await until(lambda: "huge" in engines.get("local").detail)
    assert "it serves 'huge', not 'tiny' as models.yaml says" in (engines.why_not(PLAIN) or "")


@pytest.mark.parametrize(
    ("endpoint", "url", "is_used"),
    [
        ("10.0.0.5:8083", "http://127.0.0.1:8101", False),
        ("10.0.0.5:8083", "http://0.0.0.0:8101", False),
        ("10.0.0.5:8083", "http://localhost:8101", False),
        ("10.0.0.5:8083", "http://10.0.0.5:8101", True),
        ("127.0.0.2:8083", "http://127.0.0.2:8101", True),
    ],
)
async def test_an_engine_needs_an_address_that_the_gateway_can_reach(
    lora_server: ScriptedLoraServer, endpoint: str, url: str, is_used: bool
) -> None:
    engines = Engines([Engine("fleet/0", "tiny", group="fleet", endpoint=endpoint)])
    await lora_server.say(READY, url=url)
    following = asyncio.create_task(watch_engine(engines, "fleet/0", address=lora_server.address, metrics=METRICS))
    await until(lambda: engines.get("fleet/0").has_reported)
    assert engines.any_ready == is_used
    assert ("set POINTSMAN_LORA_ENGINE_URL" in (engines.why_not(PLAIN) or "")) != is_used
    following.cancel()
    await asyncio.wait([following])


async def test_an_engine_keeps_serving_while_its_lora_server_is_down(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engines = Engines([Engine("local", "tiny")])
    async with running_lora_server() as first:
        address = first.address
        following = asyncio.create_task(watch_engine(engines, "local", address=address, metrics=METRICS))
        await first.say(READY, url=URL, resident=[VERSION])
        await until(lambda: engines.any_ready)
    await until(lambda: "engine local: its lora-server " in caplog.text)
    assert engines.targets(PLAIN)[0].engine.resident == {VERSION}
    async with running_lora_server(address) as second:
        await second.say(STARTING, detail="started again")
        await until(lambda: engines.get("local").detail == "started again")
        following.cancel()
        await asyncio.wait([following])


def test_all_engines_that_can_answer_are_candidates_in_order() -> None:
    resident = frozenset({VERSION})
    engines = Engines(
        [
            Engine("down", "tiny", "http://a", ready=False, resident=resident),
            Engine("bare", "tiny", "http://b", ready=True),
            Engine("other", "huge", "http://c", ready=True, resident=resident),
            Engine("full", "tiny", "http://d", ready=True, resident=resident),
        ]
    )
    assert [target.engine.name for target in engines.targets(PLAIN)] == ["bare", "full"]
    assert engines.why_not(PLAIN) is None
    assert [target.engine.name for target in engines.targets(Path("p", "tiny", adapter=VERSION))] == ["full"]


def test_cached_lookups_are_invalidated_by_updates() -> None:
    engines = Engines([Engine("a", "tiny", "http://a", ready=True), Engine("b", "tiny", "http://b", ready=True)])
    assert [target.engine.name for target in engines.targets(PLAIN)] == ["a", "b"]
    engines.update(Engine("a", "tiny", "http://a", ready=False, detail="stopped"))
    assert [target.engine.name for target in engines.targets(PLAIN)] == ["b"]
    engines.update(Engine("a", "tiny", "http://elsewhere", ready=True))
    assert {target.engine.url for target in engines.targets(PLAIN)} == {"http://elsewhere", "http://b"}


def test_an_update_of_an_engine_reaches_all_configurations_that_contain_it() -> None:
    states = [EngineState(Engine(name, "tiny", f"http://{name}", ready=True)) for name in ("a", "b")]
    before, after = Engines(states), Engines(states)
    assert [target.engine.name for target in before.targets(PLAIN)] == ["a", "b"]
    after.update(Engine("b", "tiny", "http://b", ready=False))
    assert [target.engine.name for target in before.targets(PLAIN)] == ["a"]


def test_configurations_share_an_engines_breaker_but_not_its_settings() -> None:
    state = EngineState(Engine("a", "tiny", "http://a", ready=True))
    before = Engines([state], {"a": EngineSettings(Timeouts(stream_idle_seconds=1))})
    after = Engines([state], {"a": EngineSettings(Timeouts(stream_idle_seconds=2))})
    assert [engines.targets(PLAIN)[0].settings.timeouts.stream_idle_seconds for engines in (before, after)] == [1, 2]
    state.breaker.failed(state.breaker.enter(), BreakerConfig(consecutive_failures=1))
    assert before.why_not(PLAIN) == after.why_not(PLAIN) == "a has failed and is tried again in 5 s"
    assert not before.any_ready
