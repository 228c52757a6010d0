"""An endpoint picker chooses among the engines that have the version; without it, the gateway chooses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

import pytest
from pointsman_gateway.config.endpoint_picker import EndpointPickerConfig
from pointsman_gateway.config.engine_config import EngineConfig
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.models_file import ResilienceConfig, RetryConfig
from pointsman_gateway.domain import Caller, Decision, Message, Path, Prompt, Request
from pointsman_gateway.engines.endpoint_picker import EndpointPickers
from pointsman_gateway.engines.engine_settings import EngineSettings
from pointsman_gateway.engines.engine_state import Engine, EngineState
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.engines.metrics import EngineMetrics
from pointsman_gateway.engines.stage import EngineBackend
from pointsman_gateway.metering.attempts import PathAttempt
from pointsman_gateway.ports import AnswerStream
from pointsman_servicekit.errors import DeadlineExceeded, ResourceExhausted, Unavailable
from pointsman_servicekit.tls import ClientTls, ServerTls
from prometheus_client import CollectorRegistry

from tests.gateway.doubles.certificates import Authority
from tests.gateway.doubles.clients import ScriptedClient, chunks_of
from tests.gateway.doubles.endpoint_picker import PickerDouble, connections_to, serving
from tests.gateway.doubles.waiting import until

A, B = "10.0.0.1:8000", "10.0.0.2:8000"
LONG = "long " * 4_000_000
"""More than gRPC sends before the other side reads."""
RETRIES = RetryConfig(backoff_seconds=0.0)


class Bench:
    """Two engines, `a` and `b`, of a group with an endpoint picker."""

    def __init__(self, url: str, tls: ClientTls | None, **settings: Any) -> None:
        registry = CollectorRegistry()
        self.url, self.pickers = url, EndpointPickers(EngineMetrics(registry), tls)
        self._registry = registry
        config = EndpointPickerConfig(url=url, **settings)
        self.pickers.activate([config])
        resilience = ResilienceConfig(retries=RETRIES)
        self.client = ScriptedClient()
        self.engines = Engines(
            [EngineState(_engine("a", A)), EngineState(_engine("b", B))],
            {"fleet": EngineSettings(picker=config)},
        )
        now = asyncio.get_running_loop().time
        self.backend = EngineBackend(self.engines, self.client, now, resilience, pickers=self.pickers)

    def picks(self, result: str) -> float:
        labels = {"group": "fleet", "result": result}
        return self._registry.get_sample_value("pointsman_endpoint_picks_total", labels) or 0.0

    def hold(self, name: str, *versions: str) -> None:
        self.engines.update(replace(self.engines.get(name), resident=frozenset(versions)))

    async def ask(self, adapter: str = "", seconds: float = 10.0, text: str = "Hello") -> str:
        """Asks once; returns the name of the engine that has answered."""
        answer = await self.begin(adapter, seconds, text)
        async for _ in chunks_of(answer.source):
            pass
        answer.source.close()
        return answer.engine

    async def begin(self, adapter: str = "", seconds: float = 10.0, text: str = "Hello") -> AnswerStream:
        deadline = asyncio.get_running_loop().time() + seconds
        caller = Caller(tenant="acme", priority=3)
        decision = Decision("d", "chat", 1.0, Path("p", "tiny", adapter=adapter), "policy:fixed", "encoder", (), ())
        prompt = Prompt((Message("user", text),))
        request = Request("auto", prompt.messages, deadline=deadline, caller=caller)
        return await self.backend.call(request, decision, prompt, PathAttempt(decision.path, 0.0))


def _engine(name: str, address: str) -> Engine:
    return Engine(name, "tiny", f"http://{address}", ready=True, group="fleet")


@asynccontextmanager
async def picked_by(
    picker: PickerDouble, server_tls: ServerTls | None = None, tls: ClientTls | None = None, **settings: Any
) -> AsyncIterator[tuple[Bench, Any]]:
    async with serving(picker, server_tls) as (url, server):
        bench = Bench(url, tls, **settings)
        try:
            yield bench, server
        finally:
            await bench.pickers.close()


@pytest.mark.parametrize("pool", [(A, B), (B, A)])
@pytest.mark.parametrize("form", ["uses_header", "uses_metadata"])
async def test_the_picked_engine_answers(pool: tuple[str, str], form: str) -> None:
    picker = PickerDouble(pool)
    picker.uses_header, picker.uses_metadata = form == "uses_header", form == "uses_metadata"
    async with picked_by(picker) as (bench, _):
        assert await bench.ask() == ("a" if pool[0] == A else "b")
        assert bench.picks("picked") == 1


async def test_the_picker_gets_prompt_tenant_and_priority() -> None:
    picker = PickerDouble([A])
    async with picked_by(picker) as (bench, _):
        await bench.ask()
    asked = picker.asked[0]
    assert asked.headers["x-llm-d-inference-fairness-id"] == "acme"
    assert asked.headers["x-llm-d-inference-objective"] == "priority-3"
    assert asked.headers[":path"] == "/v1/chat/completions"
    assert asked.body["messages"] == [{"role": "user", "content": "Hello"}]


async def test_only_engines_that_hold_the_version_are_offered() -> None:
    picker = PickerDouble([A, B])
    async with picked_by(picker) as (bench, _):
        bench.hold("b", "triage@2")
        assert await bench.ask("triage@2") == "b"
    assert picker.asked[0].subset == [B]
    assert picker.asked[0].body["model"] == "triage@2"


async def test_an_engine_outside_of_the_subset_is_never_called() -> None:
    picker = PickerDouble([A])
    picker.chooses = lambda pool, subset: pool
    async with picked_by(picker) as (bench, _):
        bench.hold("b", "triage@2")
        assert await bench.ask("triage@2") == "b"
    async with picked_by(picker, failure_mode="close") as (bench, _):
        bench.hold("b", "triage@2")
        with pytest.raises(Unavailable, match="named none of the engines"):
            await bench.ask("triage@2")
        assert bench.client.asked == []


async def test_the_second_address_is_the_fallback() -> None:
    picker = PickerDouble([B, A])
    async with picked_by(picker) as (bench, _):
        bench.client.fails("b", 503)
        assert await bench.ask() == "a"
        await until(lambda: picker.asked[0].has_ended)
        assert picker.asked[0].served == A


async def test_the_picker_hears_who_served_and_when_the_answer_ended() -> None:
    picker = PickerDouble([B])
    async with picked_by(picker) as (bench, _):
        await bench.ask()
        await until(lambda: picker.asked[0].has_ended)
    assert picker.asked[0].served == B


@pytest.mark.parametrize("mode", ["open", "close"])
async def test_a_saturated_picker_sheds_the_request(mode: str) -> None:
    picker = PickerDouble([A, B])
    picker.is_saturated = True
    async with picked_by(picker, failure_mode=mode) as (bench, _):
        with pytest.raises(ResourceExhausted, match="sheds") as raised:
            await bench.ask()
        assert bench.picks("shed") == 1
    assert raised.value.retry_after == 1.0
    assert raised.value.fault == "engine"


async def test_a_picker_without_an_endpoint_is_unavailable() -> None:
    async with picked_by(PickerDouble([])) as (bench, _):
        with pytest.raises(Unavailable, match="has no engine for the request"):
            await bench.ask()
        assert bench.client.asked == []
        assert bench.picks("no_endpoint") == 1


async def test_requests_go_on_after_the_picker_was_killed() -> None:
    async with picked_by(PickerDouble([A, B])) as (bench, server):
        assert await bench.ask() == "a"
        await server.stop(None)
        assert [await bench.ask() in "ab" for _ in range(5)] == [True] * 5
        assert (bench.picks("picked"), bench.picks("failed")) == (1, 5)


async def test_requests_fail_after_the_picker_was_killed_if_it_must_not_be_left_out() -> None:
    async with picked_by(PickerDouble([A, B]), failure_mode="close") as (bench, server):
        await server.stop(None)
        with pytest.raises(Unavailable, match="endpoint picker"):
            await bench.ask()


async def test_a_silent_picker_delays_only_the_first_request() -> None:
    picker = PickerDouble([A])
    picker.is_silent = True
    async with picked_by(picker, timeout_seconds=0.2) as (bench, _):
        began = asyncio.get_running_loop().time()
        for _ in range(5):
            assert await bench.ask() in "ab"
        assert 0.2 <= asyncio.get_running_loop().time() - began < 0.8
    assert len(picker.asked) == 1


async def test_the_deadline_holds_while_the_picker_is_silent() -> None:
    picker = PickerDouble([A])
    picker.is_silent = True
    async with picked_by(picker) as (bench, _):
        with pytest.raises(DeadlineExceeded):
            await bench.ask(seconds=0.1)


async def test_a_picker_may_choose_before_it_has_read_a_long_body() -> None:
    picker = PickerDouble([B])
    picker.answers_headers = True
    async with picked_by(picker) as (bench, _):
        assert await bench.ask(text=LONG) == "b"
        assert bench.picks("picked") == 1


async def test_a_picker_may_shed_before_it_has_read_a_long_body() -> None:
    picker = PickerDouble([B])
    picker.answers_headers = picker.is_saturated = True
    async with picked_by(picker) as (bench, _):
        with pytest.raises(ResourceExhausted):
            await bench.ask(text=LONG)


async def test_a_stream_ends_although_the_picker_reads_no_report() -> None:
    picker = PickerDouble([B])
    picker.answers_headers = True
    async with picked_by(picker) as (bench, _):
        await bench.ask()
        await until(lambda: picker.streams == 0, within=5)


async def test_the_connection_to_a_removed_picker_closes_after_its_last_answer() -> None:
    picker = PickerDouble([B])
    async with picked_by(picker) as (bench, _):
        answer = await bench.begin()
        bench.pickers.activate([])
        assert await bench.ask() == "b"  # a request that has begun with the earlier configuration
        assert connections_to(bench.url) == 1
        answer.source.close()
        del answer  # gRPC keeps a connection as long as there is a call of it, even an ended one
        await until(lambda: connections_to(bench.url) == 0)
        assert picker.asked[0].has_ended


async def test_a_picker_is_called_with_tls(tmp_path: FilePath) -> None:
    authority = Authority(tmp_path, "ca")
    server, picker = authority.sign("picker"), PickerDouble([B])
    trusted = ClientTls(authority.certificate)
    async with picked_by(picker, ServerTls(server.certificate, server.key), trusted, failure_mode="close") as (
        bench,
        _,
    ):
        assert bench.url.startswith("grpcs://")
        assert await bench.ask() == "b"


async def test_tls_needs_a_trusted_certificate(tmp_path: FilePath) -> None:
    server, stranger = Authority(tmp_path, "ca").sign("picker"), Authority(tmp_path, "other")
    trusted = ClientTls(stranger.certificate)
    tls = ServerTls(server.certificate, server.key)
    async with picked_by(PickerDouble([B]), tls, trusted, failure_mode="close") as (bench, _):
        with pytest.raises(Unavailable, match="grpcs://"):
            await bench.ask()


def test_tls_without_an_authority_is_refused() -> None:
    pickers = EndpointPickers(EngineMetrics(CollectorRegistry()))
    with pytest.raises(ConfigError, match="grpcs://epp:9002: set POINTSMAN_GATEWAY_CLIENT_TLS_CA"):
        pickers.check([EndpointPickerConfig(url="grpcs://epp:9002")])


def test_an_engine_without_an_address_has_no_picker() -> None:
    config = {"model": "tiny", "provider": "litellm/groq", "endpoint_picker": {"url": "grpc://epp:9002"}}
    with pytest.raises(ValueError, match="remove it, since LiteLLM's SDK calls litellm/groq"):
        EngineConfig.model_validate(config)
