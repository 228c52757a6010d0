"""The whole lora-server over gRPC, with a real Valkey and a double of the engine as its child process."""

import asyncio
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2
from pointsman.v1 import lora_server_pb2 as pb
from pointsman_lora_server.domain import DesiredState, EngineState, Phase, PhaseRecord
from pointsman_lora_server.metrics import LoraServerMetrics, VersionStateCollector
from pointsman_servicekit.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PointsmanError,
    Unavailable,
)
from pointsman_servicekit.grpc_client import open_channel
from prometheus_client import CollectorRegistry, generate_latest

from tests.grpc_stubs import health_stub
from tests.lora_server.server_process import MakeAdapter, RunLoraServer, aliases, refusal


async def test_a_registered_adapter_is_loaded_before_its_alias_points_to_it(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()
        version = await lora.register("triage", make_adapter(), "prod", author="Ada", run="7")

        assert version.version == f"triage@{version.sha256[:12]}"
        assert (version.state, list(version.aliases)) == (pb.ADAPTER_STATE_SERVING, ["triage@prod"])
        assert (version.rank, version.base_model, version.author) == (2, "tiny-base", "Ada")
        assert dict(version.facts) == {"run": "7"}
        assert await lora.asked() == [f"load {version.version}", f"complete {version.version}"]
        state = await lora.until(lambda state: bool(state.aliases))
        assert list(state.resident) == [version.version]
        assert aliases(state) == {"triage@prod": version.version}


async def test_a_watch_starts_with_the_whole_state_and_numbers_updates(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server() as lora:
        ready = await lora.until_ready()
        assert (ready.engine, ready.url, ready.base_model) == ("local", lora.engine_url, "tiny-base")
        assert ready.max_model_len == 4096
        watch = lora.stub.Watch(pb.WatchRequest())
        states = [await watch.read()]

        await lora.register("triage", make_adapter(), "prod")
        while not states[-1].aliases:
            states.append(await watch.read())
        watch.cancel()

        numbers = [state.sequence for state in states]
        assert numbers == sorted(set(numbers))
        assert all(state.resident for state in states if state.aliases)


async def test_equal_content_is_one_version_and_one_load(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()
        first, second = await asyncio.gather(*(lora.register("triage", make_adapter()) for _ in range(2)))

        assert first.version == second.version
        assert (await lora.asked()).count(f"load {first.version}") == 1
        listed = await lora.stub.List(pb.ListAdaptersRequest())
        assert [version.version for version in listed.versions] == [first.version]


async def test_a_rejected_adapter_never_reaches_the_engine(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()
        error = await refusal(
            lora.register("triage", make_adapter(config={"base_model_name_or_path": "another"}), "prod")
        )

        assert isinstance(error, InvalidArgument)
        assert error.code == "wrong_base_model"
        assert "another" in error.message
        assert await lora.asked() == []
        assert (await lora.stub.List(pb.ListAdaptersRequest())) == pb.ListAdaptersResponse()


async def test_an_adapter_rejected_by_the_engine_leaves_the_alias_unchanged(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()
        good = await lora.register("triage", make_adapter("good"), "prod")

        error = await refusal(lora.register("triage", make_adapter("bad", config={"behaviour": "refused"}), "prod"))

        assert (type(error), error.code) == (InvalidArgument, "engine_refused")
        assert "cannot merge" in error.message
        state = await lora.until_ready()
        assert aliases(state) == {"triage@prod": good.version}
        bad, kept = (await lora.stub.List(pb.ListAdaptersRequest(name="triage"))).versions
        assert kept.state == pb.ADAPTER_STATE_SERVING
        failed = await lora.until_state(bad.version, pb.ADAPTER_STATE_FAILED)  # its slot is cleared first
        assert "cannot merge" in failed.last_error


async def test_an_adapter_that_corrupts_the_engine_is_removed_by_a_restart(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()
        good = await lora.register("triage", make_adapter("good"), "prod")

        error = await refusal(lora.register("voice", make_adapter("bad", config={"behaviour": "poison"}), "prod"))

        assert (type(error), error.code) == (InvalidArgument, "poisons_engine")
        state = await lora.until(lambda state: state.engine_restarts == 1 and len(state.resident) > 0)
        assert list(state.resident) == [good.version]
        assert not any("voice" in line for line in await lora.asked())
        assert await lora.chat(good.version) == good.version + " word word"
        failed = (await lora.stub.List(pb.ListAdaptersRequest(name="voice"))).versions
        assert [(version.state, version.last_error_code) for version in failed] == [
            (pb.ADAPTER_STATE_FAILED, "poisons_engine")
        ]


async def test_a_killed_engine_is_restarted_and_reloads_its_adapters(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()
        aliased = await lora.register("triage", make_adapter("a", seed=1), "prod")
        others = [await lora.register("voice", make_adapter(f"b{seed}", seed=seed)) for seed in (2, 3)]

        lora.kill_engine()

        down = await lora.until(lambda state: state.status == pb.ENGINE_STATUS_DOWN)
        assert (list(down.resident), "137" in down.detail) == ([], True)
        assert aliases(down) == {"triage@prod": aliased.version}
        state = await lora.until(lambda state: state.engine_restarts == 1 and len(state.resident) == 3)
        held = {version.version for version in (aliased, *others)}
        assert set(state.resident) == held
        loads = [line for line in await lora.asked() if line.startswith("load ")]
        assert sorted(loads) == sorted(f"load {version}" for version in held)  # at once, as all fit: in any order


async def test_every_slot_is_used_and_the_least_needed_version_is_evicted(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server(held=2) as lora:
        await lora.until_ready()
        served = await lora.register("triage", make_adapter("a1", seed=1), "prod")
        old = await lora.register("triage", make_adapter("a2", seed=2))
        assert set((await lora.until_ready()).resident) == {served.version, old.version}

        new = await lora.register("triage", make_adapter("a3", seed=3), "next")

        state = await lora.until_ready()
        assert (set(state.resident), list(state.loadable)) == ({served.version, new.version}, [old.version])
        async with lora.http.get(f"{lora.engine_url}/evicted") as answer:
            assert await answer.json() == 0  # by vLLM itself, which would do it during an answer


async def test_a_version_is_loaded_on_demand(run_lora_server: RunLoraServer, make_adapter: MakeAdapter) -> None:
    async with run_lora_server(held=1) as lora:
        await lora.until_ready()
        first = await lora.register("triage", make_adapter("a1", seed=1))
        second = await lora.register("triage", make_adapter("a2", seed=2))
        assert await lora.chat(first.version) == "404"

        state = await lora.ensure(first.version)

        assert (list(state.resident), list(state.loadable)) == ([first.version], [second.version])
        assert await lora.chat(first.version) == first.version + " word word"
        unknown = await refusal(lora.ensure("triage@0123456789ab"))
        assert (type(unknown), unknown.code) == (NotFound, "unknown_version")


async def test_a_restarted_lora_server_loads_only_needed_versions(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server(held=3) as lora:
        await lora.until_ready()
        old = await lora.register("triage", make_adapter("a1", seed=1), "prod")
        new = await lora.register("triage", make_adapter("a2", seed=2), "prod")

    async with run_lora_server(held=3) as lora:
        state = await lora.until(lambda state: bool(state.resident))
        assert (list(state.resident), list(state.loadable)) == ([new.version], [old.version])
        assert (await lora.get(old.version)).state == pb.ADAPTER_STATE_READY


async def test_a_rollback_loads_the_old_version_first(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()
        old = await lora.register("triage", make_adapter("a1", seed=1), "prod")
        new = await lora.register("triage", make_adapter("a2", seed=2), "prod")
    async with run_lora_server() as lora:
        await lora.until(lambda state: bool(state.resident))

        moved = await lora.stub.SetAlias(
            pb.SetAliasRequest(alias="triage@prod", version=old.version, expected_version=new.version)
        )

        assert (moved.version, moved.revision) == (old.version, 3)
        state = await lora.until(lambda state: aliases(state) == {"triage@prod": old.version})
        assert set(state.resident) == {old.version, new.version}


async def test_a_concurrent_change_of_an_alias_is_rejected(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()
        first = await lora.register("triage", make_adapter("a1", seed=1), "prod")
        second = await lora.register("triage", make_adapter("a2", seed=2), "prod")
        third = await lora.register("triage", make_adapter("a3", seed=3))

        error = await refusal(
            lora.stub.SetAlias(
                pb.SetAliasRequest(alias="triage@prod", version=third.version, expected_version=first.version)
            )
        )

        assert (type(error), error.code) == (FailedPrecondition, "alias_moved")
        assert second.version in error.message


@pytest.mark.parametrize(
    ("alias", "version", "family", "code"),
    [
        ("triage@prod", "triage@0123456789ab", NotFound, "unknown_version"),
        ("triage@prod", "triage", InvalidArgument, "bad_version"),
        ("triage", "triage@0123456789ab", InvalidArgument, "bad_alias"),
        ("triage@0123456789ab", "triage@0123456789ab", InvalidArgument, "bad_alias"),
        ("voice@prod", "triage@0123456789ab", InvalidArgument, "bad_alias"),
    ],
)
async def test_an_invalid_alias_is_rejected(
    run_lora_server: RunLoraServer, alias: str, version: str, family: type[PointsmanError], code: str
) -> None:
    async with run_lora_server() as lora:
        error = await refusal(lora.stub.SetAlias(pb.SetAliasRequest(alias=alias, version=version)))

        assert (type(error), error.code) == (family, code)


async def test_while_the_engine_starts_health_is_serving_and_registrations_wait(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    async with run_lora_server("--start-file", str(go)) as lora, open_channel(lora.address) as channel:
        for name in ("", "pointsman.v1.LoraServer", "pointsman.v1.Training"):
            health = await health_stub(channel).Check(health_pb2.HealthCheckRequest(service=name))
            assert health.status == health_pb2.HealthCheckResponse.SERVING
        state = await lora.until(lambda state: state.status == pb.ENGINE_STATUS_STARTING)
        assert state.detail
        error = await refusal(lora.register("triage", make_adapter(), "prod"))
        assert (type(error), error.code) == (Unavailable, "engine_not_ready")

        go.touch()

        state = await lora.until(lambda state: bool(state.resident))
        assert state.status == pb.ENGINE_STATUS_READY


async def test_an_engine_that_cannot_start_reports_the_reason_each_time(run_lora_server: RunLoraServer) -> None:
    async with run_lora_server(program="/no/such/python") as lora:
        state = await lora.until(lambda state: state.engine_restarts >= 1 and state.status == pb.ENGINE_STATUS_DOWN)

        assert "/no/such/python" in state.detail


async def test_another_server_at_the_engines_address_is_not_used(
    run_lora_server: RunLoraServer,
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()
        host, _, port = lora.engine_url.removeprefix("http://").rpartition(":")
        lora.kill_engine()
        await lora.until(lambda state: state.status == pb.ENGINE_STATUS_DOWN)
        with socket.create_server((host, int(port))):
            state = await lora.until(lambda state: "in use by another process" in state.detail)
            assert state.status == pb.ENGINE_STATUS_DOWN
        await lora.until_ready()


async def test_without_redis_the_engine_keeps_serving_and_changes_are_rejected(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter, valkey: Any
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()
        version = await lora.register("triage", make_adapter(), "prod")
        valkey.stop()

        errors = [
            await refusal(lora.stub.List(pb.ListAdaptersRequest())),
            await refusal(lora.register("voice", make_adapter("b", seed=1), "prod")),
            await refusal(lora.stub.SetAlias(pb.SetAliasRequest(alias="triage@next", version=version.version))),
        ]

        assert {(type(error), error.code) for error in errors} == {(Unavailable, "redis_unavailable")}
        state = await lora.until_ready()
        assert (list(state.resident), aliases(state)) == ([version.version], {"triage@prod": version.version})

        valkey.start()
        await lora.until_redis_answers()
        moved = await lora.stub.SetAlias(pb.SetAliasRequest(alias="triage@next", version=version.version))
        assert moved.revision == 1


async def test_changes_by_another_lora_server_are_published(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server() as here, run_lora_server() as there:  # one store, one Redis, two engines
        await here.until_ready()
        await there.until_ready()
        version = await here.register("triage", make_adapter(), "prod")

        state = await there.until(lambda state: bool(state.resident))

        assert list(state.resident) == [version.version]
        await there.until(lambda state: aliases(state) == {"triage@prod": version.version})


async def test_a_modified_version_in_the_store_does_not_reach_the_engine(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()
        version = await lora.register("triage", make_adapter(), "prod")
    weights = next((tmp_path / "store").rglob("adapter_model.safetensors"))
    weights.chmod(0o644)
    os.truncate(weights, weights.stat().st_size - 1)

    async with run_lora_server() as lora:
        await lora.until_ready()
        error = await refusal(lora.stub.SetAlias(pb.SetAliasRequest(alias="triage@prod", version=version.version)))

        assert (type(error), error.code) == (FailedPrecondition, "hash_mismatch")
        assert await lora.asked() == []


async def test_metrics_count_operations_and_report_states(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()
        await lora.register("triage", make_adapter(), "prod")
        await refusal(lora.register("triage", make_adapter("bad", config={"behaviour": "refused"})))
        await refusal(lora.register("triage", make_adapter("nan", config={"trial": "not_finite"})))

        async with asyncio.timeout(10):  # transitions are counted a moment later
            while 'transitions_total{state="failed"} 2.0' not in (  # noqa: ASYNC110  # another process
                text := generate_latest(lora.components.metrics_registry).decode()
            ):
                await asyncio.sleep(0.01)

    for line in (
        'pointsman_lora_adapter_loads_total{result="loaded"} 1.0',
        'pointsman_lora_adapter_loads_total{result="refused"} 1.0',
        "pointsman_lora_adapter_load_duration_seconds_count 1.0",
        'pointsman_lora_validations_total{result="ready"} 2.0',
        'pointsman_lora_validations_total{result="failed"} 1.0',
        "pointsman_lora_validation_duration_seconds_count 3.0",
        'pointsman_lora_adapter_versions{state="serving"} 1.0',
        'pointsman_lora_adapter_versions{state="failed"} 2.0',
        "pointsman_lora_resident_adapters 1.0",
        "pointsman_lora_slots 4.0",
        "pointsman_lora_pinned_adapters 0.0",
        "pointsman_lora_probe_failures_total 0.0",
        "pointsman_lora_canary_rollbacks_total 0.0",
        "pointsman_lora_redis_up 1.0",
        "pointsman_lora_engine_up 1.0",
        "pointsman_lora_engine_restarts_total 0.0",
        'pointsman_build_info{service="lora-server",version="0.1.0"} 1.0',
        'pointsman_lora_info{base_model="tiny-base",engine="local",held="4",max_lora_rank="8",max_loras="1"} 1.0',
    ):
        assert line in text
    assert "pointsman_event_loop_lag_seconds_bucket" in text
    # The adapter's first answers, and the probes of the base model.
    for model in ("tiny-base", "other"):
        asked = f'gen_ai_provider_name="vllm",gen_ai_request_model="{model}"'
        assert re.search(rf"gen_ai_client_operation_duration_seconds_count{{.*{asked}}} [1-9]", text)


def test_ten_thousand_adapter_names_create_no_series() -> None:
    metrics, desired = LoraServerMetrics("base"), DesiredState()
    states = VersionStateCollector(lambda: desired, EngineState, lambda: 4, 1, metrics.registry)
    versions = [f"junk-{number}@0123456789ab" for number in range(10_000)]
    metrics.observe_completion(versions[0], "", 0.1)
    before, size = _series(metrics.registry), len(generate_latest(metrics.registry))

    for version in versions:
        metrics.observe_completion(version, "", 0.1)
    desired = DesiredState(phases=dict.fromkeys(versions, PhaseRecord(Phase.READY)))
    states.count_transitions()

    assert _series(metrics.registry) == before
    assert len(generate_latest(metrics.registry)) < 1.1 * size < 100_000


def _series(registry: CollectorRegistry) -> set[tuple[str, ...]]:
    return {(sample.name, *sample.labels.values()) for family in registry.collect() for sample in family.samples}


def test_metrics_of_a_stopped_engine_are_zero() -> None:
    registry = CollectorRegistry()
    VersionStateCollector(DesiredState, EngineState, lambda: 4, 1, registry)

    assert "pointsman_lora_engine_up 0.0" in generate_latest(registry).decode()
