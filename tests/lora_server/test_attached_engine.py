"""The lora-server attached to an engine that somebody else has started: vLLM with and without the guard, and SGLang."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from pointsman.v1 import lora_server_pb2 as pb
from pointsman_lora_server.settings import Settings
from pointsman_servicekit.grpc_errors import from_rpc_error

from tests.lora_server.attached_engines import (
    SECRET,
    AttachedEngine,
    Moved,
    OtherApi,
    Sglang,
    VllmAtRuntime,
    VllmWithoutRuntimeLoading,
    WebPage,
)
from tests.lora_server.fake_engine import Engine
from tests.lora_server.server_process import MakeAdapter, RunLoraServer, refusal

GUARD = {"engine_secret": SECRET}
KINDS = {"guard": (Engine, GUARD), "vllm": (VllmAtRuntime, {}), "sglang": (Sglang, {"engine_api": "sglang"})}
every_kind = pytest.mark.parametrize(("kind", "settings"), KINDS.values(), ids=KINDS)


async def until(holds: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(20):
        while not await holds():  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.01)


async def register(lora: Any, *what: Any) -> pb.AdapterVersion:
    """Registers like `lora.register`. It retries while Redis, which shares the processor, misses its time limit of 50
    ms.
    """
    async with asyncio.timeout(20):
        while True:
            try:
                version: pb.AdapterVersion = await lora.register(*what)
                return version
            except grpc.aio.AioRpcError as error:
                if from_rpc_error(error, "lora-server").code != "redis_unavailable":
                    raise
            await asyncio.sleep(0.05)


async def detail(lora: Any, text: str) -> pb.EngineState:
    """Waits until the engine is down for a reason that contains `text`."""
    state: pb.EngineState = await lora.until(
        lambda state: state.status == pb.ENGINE_STATUS_DOWN and text in state.detail
    )
    return state


@every_kind
async def test_versions_are_loaded_moved_and_unloaded_under_their_content_addressed_names(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter, kind: type[Engine], settings: dict[str, Any]
) -> None:
    async with AttachedEngine(kind) as engine, run_lora_server(engine_url=engine.url, **settings) as lora:
        await lora.until_ready()
        first = await register(lora, "triage", make_adapter("first"), "prod")
        second = await register(lora, "triage", make_adapter("second", seed=1), "prod")
        state = await lora.until_ready()

        assert state.url == engine.url
        assert set(await engine.adapters()) == {first.version, second.version} == set(state.resident)
        assert {alias.version for alias in state.aliases} == {second.version}
        await lora.stub.Retire(pb.RetireRequest(version=first.version))

        async def is_unloaded() -> bool:
            return await engine.adapters() == [second.version]

        await until(is_unloaded)


@every_kind
async def test_after_a_restart_of_the_engine_its_adapters_are_loaded_again(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter, kind: type[Engine], settings: dict[str, Any]
) -> None:
    async with AttachedEngine(kind) as engine, run_lora_server(engine_url=engine.url, **settings) as lora:
        await lora.until_ready()
        version = (await register(lora, "triage", make_adapter(), "prod")).version
        await engine.stop()
        down = await detail(lora, "cannot be used")
        assert engine.url in down.detail
        assert not down.resident

        await engine.start()

        state = await lora.until(lambda state: list(state.resident) == [version])
        assert state.engine_restarts >= 1
        assert await engine.adapters() == [version]


@every_kind
async def test_a_restarted_lora_server_keeps_what_its_engine_holds(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter, kind: type[Engine], settings: dict[str, Any]
) -> None:
    async with AttachedEngine(kind) as engine:
        async with run_lora_server(engine_url=engine.url, **settings) as lora:
            await lora.until_ready()
            version = (await register(lora, "triage", make_adapter(), "prod")).version
            unused = (await register(lora, "triage", make_adapter("other", seed=1))).version
        assert await engine.adapters() == sorted([version, unused])
        before = len(await engine.asked())

        async with run_lora_server(engine_url=engine.url, **settings) as lora:
            await lora.until(lambda state: list(state.resident) == [version])

            async def is_removed() -> bool:
                return await engine.adapters() == [version]

            await until(is_removed)
        assert not {f"close {version}", f"unload {version}", f"remove {version}"} & {*(await engine.asked())[before:]}


@every_kind
async def test_an_adapter_that_corrupts_the_engine_takes_it_out_of_service_until_it_is_restarted(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter, kind: type[Engine], settings: dict[str, Any]
) -> None:
    async with AttachedEngine(kind) as engine, run_lora_server(engine_url=engine.url, **settings) as lora:
        await lora.until_ready()
        good = await register(lora, "triage", make_adapter("good"), "prod")
        bad = make_adapter("bad", config={"behaviour": "poison"})

        assert (await refusal(register(lora, "voice", bad, "prod"))).code == "poisons_engine"
        await detail(lora, f"restart the engine at {engine.url}")

        await engine.stop()
        await engine.start()
        state = await lora.until(lambda state: state.status == pb.ENGINE_STATUS_READY and len(state.resident) > 0)
        assert list(state.resident) == [good.version]


@pytest.mark.parametrize(
    ("kind", "settings", "reason"),
    [
        (VllmAtRuntime, GUARD, "--middleware pointsman_engine_guard.Guard"),
        (Engine, GUARD | {"engine_secret": "another secret!!"}, "guard answers 403"),
        (VllmWithoutRuntimeLoading, {}, "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"),
        (Engine, {}, "POINTSMAN_LORA_ENGINE_SECRET"),
    ],
    ids=["no-guard", "wrong-secret", "no-runtime-loading", "guard-without-secret"],
)
async def test_an_engine_with_the_wrong_settings_is_down_and_the_reason_says_what_to_change(
    run_lora_server: RunLoraServer, kind: type[Engine], settings: dict[str, Any], reason: str
) -> None:
    async with AttachedEngine(kind) as engine, run_lora_server(engine_url=engine.url, **settings) as lora:
        await detail(lora, reason)


@every_kind
@pytest.mark.parametrize(
    ("proxy", "reason"),
    [(WebPage, "something else answer"), (OtherApi, "something else answer"), (Moved, "redirect to http://other.inv")],
)
async def test_an_engine_in_whose_place_something_else_answers_is_down_and_back_when_it_answers_itself(
    run_lora_server: RunLoraServer, kind: type[Engine], settings: dict[str, Any], proxy: type[Engine], reason: str
) -> None:
    async with AttachedEngine(kind) as engine, run_lora_server(engine_url=engine.url, **settings) as lora:
        await lora.until_ready()
        await engine.stop()
        await engine.start(proxy)
        await detail(lora, reason)
        await engine.stop()
        await engine.start()
        await lora.until_ready()


async def test_an_engine_that_serves_another_model_is_down(run_lora_server: RunLoraServer) -> None:
    async with AttachedEngine(VllmAtRuntime, base="llama") as engine, run_lora_server(engine_url=engine.url) as lora:
        await detail(lora, "serves llama, and not 'tiny-base'")


async def test_an_engine_that_is_restarted_with_the_right_settings_is_used(run_lora_server: RunLoraServer) -> None:
    async with AttachedEngine(VllmWithoutRuntimeLoading) as engine, run_lora_server(engine_url=engine.url) as lora:
        await detail(lora, "VLLM_ALLOW_RUNTIME_LORA_UPDATING")
        await engine.stop()
        await engine.start(VllmAtRuntime)
        await lora.until_ready()


@pytest.mark.parametrize("kind", ["guard", "sglang"])
async def test_an_engine_with_smaller_limits_is_used_within_them_and_says_so(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter, kind: str
) -> None:
    double, settings = KINDS[kind]
    async with (
        AttachedEngine(double, slots=1, max_rank=1) as engine,
        run_lora_server(engine_url=engine.url, held=4, **settings) as lora,
    ):
        state = await lora.until_ready()
        assert "POINTSMAN_LORA_HELD is 4, but the engine was started for 1 (--max-cpu-loras" in state.detail
        assert "POINTSMAN_LORA_MAX_LORA_RANK is 8, but the engine was started for 1" in state.detail
        assert (await refusal(register(lora, "triage", make_adapter()))).code == "rank_too_high"
    async with AttachedEngine(double, slots=1) as engine, run_lora_server(engine_url=engine.url, **settings) as lora:
        await lora.until_ready()
        for number in range(3):
            await register(lora, "triage", make_adapter(f"{number}", seed=number))
        assert len(await engine.adapters()) == 1
        assert await engine.call("GET", "/evicted") == 0


async def test_without_the_guard_and_without_held_a_batch_of_adapters_is_the_limit(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with AttachedEngine(VllmAtRuntime) as engine, run_lora_server(engine_url=engine.url, held=None) as lora:
        await lora.until_ready()
        for number in range(2):
            await register(lora, "triage", make_adapter(f"{number}", seed=number))
        assert len(await engine.adapters()) == 1


@every_kind
async def test_an_engine_may_see_the_store_under_another_path(
    run_lora_server: RunLoraServer,
    make_adapter: MakeAdapter,
    tmp_path: Path,
    kind: type[Engine],
    settings: dict[str, Any],
) -> None:
    seen = tmp_path / "mounted"
    async with (
        AttachedEngine(kind) as engine,
        run_lora_server(engine_url=engine.url, engine_store=str(seen), **settings) as lora,
    ):
        await lora.until_ready()
        error = await refusal(register(lora, "triage", make_adapter(), "prod"))
        assert error.code == "engine_store"
        assert str(seen) in error.message

        seen.symlink_to(tmp_path / "store")

        version = await register(lora, "triage", make_adapter(), "prod")
        assert version.state == pb.ADAPTER_STATE_SERVING


async def test_without_the_guard_a_version_that_others_replaced_is_loaded_again(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    async with AttachedEngine(VllmAtRuntime) as engine, run_lora_server(engine_url=engine.url) as lora:
        await lora.until_ready()
        version = (await register(lora, "triage", make_adapter(), "prod")).version
        loads = (await engine.asked()).count(f"load {version}")
        await engine.call("POST", "/v1/unload_lora_adapter", {"lora_name": version})
        other = {"lora_name": version, "lora_path": str(make_adapter("other", seed=1))}
        await engine.call("POST", "/v1/load_lora_adapter", other)

        async def is_loaded_again() -> bool:
            return (await engine.asked()).count(f"load {version}") == loads + 2

        await until(is_loaded_again)
        models = (await engine.call("GET", "/v1/models"))["data"]
        assert str(tmp_path / "store") in next(model["root"] for model in models if model["id"] == version)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"engine_url": "vllm:8000"}, "engine_url"),
        ({"engine_url": "http://vllm:8000", "engine_args": "--swap-space 1"}, "ENGINE_ARGS is for an engine that is"),
        ({"engine_secret": SECRET}, "ENGINE_SECRET is for an engine that runs already"),
        ({"engine_listen": "127.0.0.1:1", "engine_url": "http://a", "engine_store": "/x"}, "ENGINE_STORE"),
        ({"engine_url": "http://a", "engine_api": "sglang", "engine_secret": SECRET}, "no other engine has"),
        ({"engine_files": "sent"}, "ENGINE_FILES is for an engine that runs already"),
        ({"engine_url": "http://a", "engine_files": "sent"}, "needs the guard in vLLM, and ENGINE_SECRET here"),
        (
            {"engine_url": "http://a", "engine_files": "sent", "engine_secret": SECRET, "engine_store": "/x"},
            "ENGINE_STORE is for an engine that reads the store",
        ),
    ],
)
def test_settings_that_would_have_no_effect_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**given)
