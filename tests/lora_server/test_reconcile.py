"""The engine reaches the desired state in Redis even if something fails meanwhile, or aliases change."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pointsman.v1 import lora_server_pb2 as pb
from pointsman_lora_server.adapters.placement import PlacementPlanner
from pointsman_lora_server.adapters.reconciler import Reconciler
from pointsman_lora_server.domain import Alias, DesiredState, EngineState, EngineStatus, FleetState, StoredPlan
from pointsman_lora_server.engine_state import EngineStateStore
from pointsman_servicekit.errors import FailedPrecondition, NotFound, Unavailable
from prometheus_client import generate_latest

from tests.lora_server.server_process import MakeAdapter, RunLoraServer, aliases, refusal


async def until(ask: Callable[[], Any], wanted: object) -> None:
    async with asyncio.timeout(20):
        while await ask() != wanted:  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.01)


class Deaf:
    """A registry whose client ignores a cancellation, as `asyncio.wait_for` can in Python 3.11."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def wait_for_change(self, last_id: str, seconds: float) -> str:
        self.asked.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return last_id

    async def read(self) -> DesiredState:
        return DesiredState()

    async def report_engine(self, engine: str, state: EngineState, seconds: float) -> None: ...

    async def read_fleet(self) -> FleetState:
        return FleetState()

    async def read_plan(self, known: StoredPlan) -> StoredPlan:
        return known

    async def announce_target(self, version: str, seconds: float) -> None: ...


class FailingAtTimes:
    """A registry without data, whose reads fail while `fails`."""

    fails = False

    async def read(self) -> DesiredState:
        if self.fails:
            raise Unavailable("Redis does not answer", code="redis_unavailable")
        return DesiredState()


class Nothing:
    """Replaces components that the test does not need; its methods do nothing."""

    def advance(self, desired: DesiredState) -> None: ...
    def set_targets(self, pinned: frozenset[str], alias_targets: frozenset[str]) -> None: ...
    def set_placed(self, placed: frozenset[str]) -> None: ...
    async def stop(self) -> None: ...
    async def run_once(self, desired: DesiredState, state: EngineState) -> None: ...


async def no_judge(desired: DesiredState) -> None: ...


def reconciler(registry: Any, engine_state: EngineStateStore) -> Reconciler:
    nothing: Any = Nothing()
    placement = PlacementPlanner(registry, "local")
    return Reconciler(registry, nothing, nothing, engine_state, no_judge, placement=placement, decider=nothing)


async def test_it_ends_even_if_its_cancellation_was_swallowed() -> None:
    registry, engine_state = Deaf(), EngineStateStore()
    running = asyncio.create_task(reconciler(registry, engine_state).run())
    await registry.asked.wait()

    engine_state.close()
    running.cancel()

    done, _ = await asyncio.wait({running}, timeout=10)
    assert done


async def test_a_redis_without_its_data_removes_no_alias() -> None:
    class Forgetful(Deaf):
        desired = DesiredState(aliases=(Alias("triage@prod", "triage@000000000001", 1),))

        async def read(self) -> DesiredState:
            return self.desired

    registry, engine_state = Forgetful(), EngineStateStore()
    engine_state.update(status=EngineStatus.READY)
    components = reconciler(registry, engine_state)
    await components.refresh()
    registry.desired = DesiredState()

    await components.refresh()

    assert [alias.alias for alias in engine_state.state.aliases] == ["triage@prod"]


async def test_a_failed_read_is_not_a_fresh_one() -> None:
    registry: Any = FailingAtTimes()
    reading = reconciler(registry, EngineStateStore())
    assert not reading.has_read
    await reading.refresh()
    assert reading.has_read_within(60.0)
    await asyncio.sleep(0.05)
    registry.fails = True
    with pytest.raises(Unavailable):
        await reading.refresh()
    assert reading.has_read
    assert not reading.has_read_within(0.05)


async def test_answers_of_the_old_version_are_completed_during_a_promotion(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()
        old = await lora.register("triage", make_adapter("a", seed=1), "prod")
        new = await lora.register("triage", make_adapter("b", seed=2))
        await lora.hold("answers")
        in_flight = asyncio.create_task(lora.chat(old.version))
        await lora.until_asked(f"chat {old.version}")

        await lora.set_alias("triage@prod", new.version)

        state = await lora.until(lambda state: aliases(state) == {"triage@prod": new.version})
        assert set(state.resident) == {old.version, new.version}
        await lora.release()
        assert await in_flight == old.version + " word word"


async def test_a_promotion_reaches_every_lora_server_within_100_ms(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server(engine_name="here") as here, run_lora_server(engine_name="there") as there:
        await here.until_ready()
        await there.until_ready()
        versions = [
            (await here.register("triage", make_adapter(name, seed=seed), "prod")).version
            for seed, name in enumerate("ab")
        ]
        await there.until(lambda state: set(versions) <= {*state.resident, *state.loadable})
        watch = there.stub.Watch(pb.WatchRequest())
        await watch.read()
        took = []

        for number in range(5):
            to = versions[number % 2]
            started = time.perf_counter()
            await here.set_alias("triage@prod", to)
            async with asyncio.timeout(10):
                while aliases(await watch.read()) != {"triage@prod": to}:
                    pass
            took.append(time.perf_counter() - started)
        watch.cancel()

        assert sorted(took)[2] < 0.1, took


async def test_a_canary_is_loaded_and_published_and_a_weight_of_0_ends_it(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server(held=2) as lora:
        await lora.until_ready()
        stable = await lora.register("triage", make_adapter("a", seed=1), "prod")
        canary = await lora.register("triage", make_adapter("b", seed=2))
        await lora.register("triage", make_adapter("c", seed=3))  # takes its slot

        set_ = await lora.stub.SetCanary(
            pb.SetCanaryRequest(alias="triage@prod", version=canary.version, weight=0.25, author="Ada")
        )

        assert (set_.canary_version, set_.canary_weight, set_.revision) == (canary.version, 0.25, 2)
        state = await lora.until(lambda state: state.aliases[0].canary_weight > 0)
        assert set(state.resident) == {stable.version, canary.version}
        assert (await lora.get(canary.version)).state == pb.ADAPTER_STATE_SERVING
        ended = await lora.stub.SetCanary(pb.SetCanaryRequest(alias="triage@prod", weight=0))
        assert (ended.version, ended.canary_version) == (stable.version, "")


async def test_a_worse_canary_is_rolled_back_and_counted(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()
        stable = await lora.register("triage", make_adapter("a", seed=1), "prod")
        canary = await lora.register("triage", make_adapter("b", seed=2))
        now = await lora.stub.SetCanary(pb.SetCanaryRequest(alias="triage@prod", version=canary.version, weight=0.5))
        outcomes = [
            pb.Outcomes(alias="triage@prod", revision=now.revision, version=version, requests=200, errors=errors)
            for version, errors in ((stable.version, 0), (canary.version, 0))
        ]
        await lora.stub.ReportCanaryMetrics(pb.ReportCanaryMetricsRequest(outcomes=outcomes))
        assert (await lora.stub.List(pb.ListAdaptersRequest())).aliases[0].canary_requests == 200
        outcomes[1].errors = 150

        await lora.stub.ReportCanaryMetrics(pb.ReportCanaryMetricsRequest(outcomes=outcomes))

        state = await lora.until(lambda state: not state.aliases[0].canary_version)
        assert aliases(state) == {"triage@prod": stable.version}
        history = (await lora.stub.History(pb.HistoryRequest())).changes
        assert "error rate" in history[0].reason
        assert "pointsman_lora_canary_rollbacks_total 1.0" in generate_latest(lora.components.metrics_registry).decode()


async def test_a_rollback_loads_the_previous_version(run_lora_server: RunLoraServer, make_adapter: MakeAdapter) -> None:
    async with run_lora_server(held=1) as lora:
        await lora.until_ready()
        old = await lora.register("triage", make_adapter("a", seed=1), "prod")
        new = await lora.register("triage", make_adapter("b", seed=2), "prod")
        assert list((await lora.until_ready()).resident) == [new.version]

        moved = await lora.stub.Rollback(pb.RollbackRequest(alias="triage@prod", reason="it is slow", author="Ada"))

        assert (moved.version, moved.previous) == (old.version, new.version)
        state = await lora.until(lambda state: aliases(state) == {"triage@prod": old.version})
        assert list(state.resident) == [old.version]


async def test_a_retired_version_is_drained_and_unloaded_and_can_be_deleted(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()
        old = await lora.register("triage", make_adapter("a", seed=1), "prod")
        error = await refusal(lora.stub.Retire(pb.RetireRequest(version=old.version)))
        assert (type(error), error.code) == (FailedPrecondition, "in_use")
        await lora.register("triage", make_adapter("b", seed=2), "prod")
        await lora.hold("answers")
        in_flight = asyncio.create_task(lora.chat(old.version))
        await lora.until_asked(f"chat {old.version}")

        await lora.stub.Retire(pb.RetireRequest(version=old.version, author="Ada"))

        await lora.until_state(old.version, pb.ADAPTER_STATE_DRAINING)
        await lora.until(lambda state: old.version not in [*state.resident, *state.loadable])
        held = await refusal(lora.stub.Delete(pb.DeleteAdapterRequest(version=old.version)))
        assert (type(held), held.code) == (FailedPrecondition, "in_use")
        await lora.release()
        assert await in_flight == old.version + " word word"
        await lora.until_state(old.version, pb.ADAPTER_STATE_RETIRED)
        await lora.until_asked(f"remove {old.version}")
        assert (await refusal(lora.ensure(old.version))).code == "not_ready"

        await lora.stub.Delete(pb.DeleteAdapterRequest(version=old.version, author="Ada"))

        assert isinstance(await refusal(lora.get(old.version)), NotFound)
        assert not list((tmp_path / "store").glob(f"triage/{old.version.partition('@')[2]}"))


async def test_a_retired_version_that_is_registered_again_serves_again(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()
        folder = make_adapter()
        version = await lora.register("triage", folder)
        await lora.stub.Retire(pb.RetireRequest(version=version.version))
        await lora.until(lambda state: not state.resident)

        again = await lora.register("triage", folder, "prod")

        assert (again.version, again.state) == (version.version, pb.ADAPTER_STATE_SERVING)


async def test_a_pinned_version_is_held_without_an_alias(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server(held=2) as lora:
        await lora.until_ready()
        pinned = await lora.register("triage", make_adapter("a", seed=1))
        assert (await lora.stub.Pin(pb.PinRequest(version=pinned.version, pinned=True))).pinned
        await lora.until_pinned(1)
        for seed in (2, 3):
            await lora.register("triage", make_adapter(f"b{seed}", seed=seed))

        assert pinned.version in (await lora.until_ready()).resident
    async with run_lora_server(held=2) as lora:
        state = await lora.until(lambda state: bool(state.resident))
        assert list(state.resident) == [pinned.version]


async def test_a_pinned_version_is_loaded_on_every_engine(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server(engine_name="here") as here, run_lora_server(engine_name="there") as there:
        await here.until_ready()
        await there.until_ready()
        version = await here.register("triage", make_adapter())
        await there.until(lambda state: list(state.loadable) == [version.version])

        await here.stub.Pin(pb.PinRequest(version=version.version, pinned=True))

        await there.until(lambda state: list(state.resident) == [version.version])


async def test_more_aliases_than_slots_are_served_in_turn(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server(held=2) as lora:
        await lora.until_ready()
        versions = [
            (await lora.register(f"a{seed}", make_adapter(f"a{seed}", seed=seed), "prod")).version for seed in range(4)
        ]
        for version in versions * 2:
            await lora.ensure(version)
            assert await lora.chat(version) == version + " word word"

        state = await lora.until_ready()
        assert len(state.resident) == 2
        assert {*state.resident, *state.loadable} == set(versions)


async def test_a_hanging_redis_does_not_affect_serving(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter, valkey: Any
) -> None:
    async with run_lora_server(held=1) as lora:
        await lora.until_ready()
        first = await lora.register("triage", make_adapter("a", seed=1), "prod")
        second = await lora.register("triage", make_adapter("b", seed=2), "next")

        valkey.hang()

        assert isinstance(await refusal(lora.set_alias("triage@prod", second.version)), Unavailable)
        state = await lora.ensure(first.version)  # known versions can still be loaded
        assert list(state.resident) == [first.version]
        assert aliases(state) == {"triage@prod": first.version, "triage@next": second.version}
        assert await lora.chat(first.version) == first.version + " word word"


async def test_an_engine_restarted_without_redis_reloads_the_same_versions(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter, valkey: Any
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()
        version = await lora.register("triage", make_adapter(), "prod")
        valkey.stop()

        lora.kill_engine()

        state = await lora.until(lambda state: state.engine_restarts == 1 and bool(state.resident))
        assert (list(state.resident), aliases(state)) == ([version.version], {"triage@prod": version.version})
