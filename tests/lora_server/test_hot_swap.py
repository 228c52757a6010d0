"""Adapters are loaded on demand and evicted, with the double of the engine in its own process."""

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import Any

import aiohttp
import pytest
from pointsman_lora_server.adapters.load_sequence import LoadSequence
from pointsman_lora_server.adapters.loading import AdapterLoader
from pointsman_lora_server.adapters.slots import RESERVATION_SECONDS, AdapterSlots
from pointsman_lora_server.adapters.trials import Trials
from pointsman_lora_server.adapters.warm_up import WarmUp
from pointsman_lora_server.domain import AdapterVersion, EngineStatus, Phase
from pointsman_lora_server.engine import vllm_client
from pointsman_lora_server.engine.command import SECRET_VARIABLE
from pointsman_lora_server.engine.completion import Probe
from pointsman_lora_server.engine.vllm_client import VllmClient
from pointsman_lora_server.engine_state import EngineStateStore
from pointsman_lora_server.metrics import LoraServerMetrics
from pointsman_lora_server.smoke.reference import Reference, ReferenceRow
from pointsman_servicekit.errors import InvalidArgument, ResourceExhausted, Unavailable

from tests.ports import free_port

BASE = "tiny-base"


def adapter(number: int) -> AdapterVersion:
    return AdapterVersion("triage", f"{number:064x}"[::-1], BASE, 2, ("q_proj",), 100, number)


A, B, C, D = (adapter(number) for number in range(1, 5))


@dataclass
class Folders:
    """A store without checks. `behaviours` are how the engine's double behaves with each adapter."""

    root: Path
    behaviours: dict[str, dict[str, Any]] = field(default_factory=dict)

    def fetch(self, version: AdapterVersion) -> Path:
        folder = self.root / version.version
        folder.mkdir(exist_ok=True)
        (folder / "adapter_config.json").write_text(json.dumps(self.behaviours.get(version.version, {})))
        return folder


@dataclass
class Standings:
    failed: list[tuple[str, str]] = field(default_factory=list)

    async def set_phase(
        self, version: str, phase: Phase, *, expected: Phase | None = None, error_code: str = "", error: str = ""
    ) -> bool:
        assert (phase, expected) == (Phase.FAILED, Phase.READY)
        self.failed.append((version, error_code))
        return True


@dataclass
class Swapping:
    loader: AdapterLoader
    engine_state: EngineStateStore
    engine: VllmClient
    folders: Folders
    phases: Standings
    metrics: LoraServerMetrics
    restarts: list[str]
    warming: WarmUp
    http: aiohttp.ClientSession
    url: str
    process: "subprocess.Popen[bytes]"

    async def asked(self, *kinds: str) -> list[str]:
        async with self.http.get(f"{self.url}/asked") as answer:
            return [line for line in await answer.json() if line.partition(" ")[0] in kinds]

    async def hold(self, what: str) -> None:
        await self.http.post(f"{self.url}/hold", json={"what": what})

    async def next_life(self) -> None:
        await self.http.post(f"{self.url}/restart")
        self.engine_state.update(status=EngineStatus.STARTING, life=self.engine_state.state.life + 1)
        self.engine_state.update(status=EngineStatus.READY)

    async def release(self) -> None:
        await self.http.post(f"{self.url}/release")

    @asynccontextmanager
    async def answering(self, version: AdapterVersion) -> AsyncIterator["asyncio.Task[str]"]:
        """Keeps a request in flight until the engine is released."""
        await self.hold("answers")
        task = asyncio.create_task(self.chat(version))
        await self.until(lambda: self.in_flight(version), 1)
        yield task
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def chat(self, version: AdapterVersion) -> str:
        body = {"model": version.version, "messages": [], "max_tokens": 3}
        async with self.http.post(f"{self.url}/v1/chat/completions", json=body) as answer:
            assert answer.status == 200, await answer.text()
            return str((await answer.json())["choices"][0]["message"]["content"])

    async def in_flight(self, version: AdapterVersion) -> int:
        return (await self.engine.list_adapters())[version.version].in_flight

    async def until(self, ask: Callable[[], Awaitable[object]], wanted: object) -> None:
        async with asyncio.timeout(10):
            while await ask() != wanted:  # noqa: ASYNC110  # another process
                await asyncio.sleep(0.01)

    async def until_resident(self, *versions: AdapterVersion) -> None:
        async with asyncio.timeout(10):
            async for state in self.engine_state.watch():
                if state.resident == {version.version for version in versions}:
                    return


RunEngine = Callable[..., Any]


@pytest.fixture
def swapping(tmp_path: Path) -> RunEngine:
    @asynccontextmanager
    async def run(*options: str, slots: int = 2, longest_wait: float = 10.0) -> AsyncIterator[Swapping]:
        port, secret = free_port(), secrets.token_hex(8)
        double = str(Path(__file__).parent / "fake_engine.py")
        command = [sys.executable, double, "--port", str(port), "--base", BASE, "--slots", str(slots), *options]
        url = f"http://127.0.0.1:{port}"
        with subprocess.Popen(command, env=os.environ | {SECRET_VARIABLE: secret}) as process:  # noqa: ASYNC220  # it returns at once
            try:
                async with aiohttp.ClientSession() as http, vllm_client.open_client(url, lambda: secret) as engine:
                    async with asyncio.timeout(20):
                        while not await engine.is_healthy():  # noqa: ASYNC110  # another process
                            await asyncio.sleep(0.01)
                    engine_state, metrics, phases = EngineStateStore(), LoraServerMetrics("base"), Standings()
                    folders, restarts = Folders(tmp_path), list[str]()
                    probe = Probe(engine, BASE, metrics.count_probe_failure)
                    await probe.start()

                    def restart(why: str) -> None:
                        restarts.append(why)
                        engine_state.update(status=EngineStatus.DOWN, detail=why)

                    warming = WarmUp(engine, BASE)
                    loading = LoadSequence(engine, warming, Trials(warming.warm, probe, restart, metrics), metrics)
                    of_engine = AdapterSlots(engine, engine_state, slots, metrics)
                    loader = AdapterLoader(
                        folders,
                        loading,
                        slots=of_engine,
                        phases=phases,
                        engine_state=engine_state,
                        metrics=metrics,
                        max_wait_seconds=longest_wait,
                    )
                    engine_state.update(status=EngineStatus.READY, life=1)
                    yield Swapping(
                        loader, engine_state, engine, folders, phases, metrics, restarts, warming, http, url, process
                    )
                    await loader.stop()
            finally:
                process.kill()

    return run


async def test_a_hundred_concurrent_requests_load_once(swapping: RunEngine) -> None:
    async with swapping("--load-seconds", "0.2") as engine:
        await asyncio.gather(*(engine.loader.ensure_loaded(A) for _ in range(100)))

        assert await engine.asked("load") == [f"load {A.version}"]
        assert engine.engine_state.state.resident == {A.version}
        ensures = {
            result: engine.metrics.registry.get_sample_value(
                "pointsman_lora_adapter_load_requests_total", {"result": result}
            )
            for result in ("loaded", "joined")
        }
        assert ensures == {"loaded": 1, "joined": 99}


async def test_a_cancelled_waiter_does_not_cancel_the_load(swapping: RunEngine) -> None:
    async with swapping() as engine:
        await engine.hold("loads")
        impatient, patient = (asyncio.create_task(engine.loader.ensure_loaded(A)) for _ in range(2))
        await engine.until(lambda: engine.asked("load"), [f"load {A.version}"])

        impatient.cancel()
        await engine.release()
        await patient

        assert impatient.cancelled()
        assert engine.engine_state.state.resident == {A.version}


async def test_the_least_recently_used_version_is_evicted(swapping: RunEngine) -> None:
    async with swapping() as engine:
        await engine.loader.ensure_loaded(A)
        await engine.loader.ensure_loaded(B)
        assert await engine.chat(A) == A.version + " word word"
        assert await engine.chat(B) == B.version + " word word"
        assert await engine.chat(A) == A.version + " word word"
        await asyncio.sleep(RESERVATION_SECONDS)  # a slow engine's report may leave in doubt if B was used since

        await engine.loader.ensure_loaded(C)

        assert engine.engine_state.state.resident == {A.version, C.version}
        assert (await engine.engine.list_adapters()).keys() == {A.version, C.version}


async def test_an_eviction_is_published_then_closed_then_unloaded(swapping: RunEngine) -> None:
    async with swapping(slots=1) as engine:
        await engine.loader.ensure_loaded(A)
        await engine.chat(A)
        received: list[tuple[set[str], list[str]]] = []

        async def watch() -> None:
            async for state in engine.engine_state.watch():
                received.append((set(state.resident), await engine.asked("close", "remove")))

        watching = asyncio.create_task(watch())
        await asyncio.sleep(0)  # so that it sees the beginning
        await engine.loader.ensure_loaded(B)
        watching.cancel()

        first_without = next(asked for resident, asked in received if A.version not in resident)
        assert f"remove {A.version}" not in first_without
        assert await engine.asked("close", "remove", "load") == [
            f"load {A.version}",
            f"close {A.version}",
            f"remove {A.version}",
            f"load {B.version}",
        ]


async def test_a_version_in_use_is_not_evicted(swapping: RunEngine) -> None:
    async with swapping(slots=1, longest_wait=0.3) as engine:
        await engine.loader.ensure_loaded(A)
        async with engine.answering(A) as answer:
            with pytest.raises(ResourceExhausted) as caught:
                await engine.loader.ensure_loaded(B)

            assert caught.value.code == "no_slot"
            assert f"{A.version} (1 in flight)" in caught.value.message
            assert engine.engine_state.state.resident == {A.version}
            await engine.release()
            assert await answer == A.version + " word word"
        assert await engine.chat(A) == A.version + " word word"


async def test_a_waiting_load_gets_the_slot_when_the_last_answer_ends(swapping: RunEngine) -> None:
    async with swapping(slots=1) as engine:
        await engine.loader.ensure_loaded(A)
        async with engine.answering(A) as answer:
            waiting = asyncio.create_task(engine.loader.ensure_loaded(B))
            # Under a steady load the adapter would never be idle, so its name is closed after a while.
            await engine.until(lambda: engine.asked("close"), [f"close {A.version}"])
            assert engine.engine_state.state.resident == set()
            assert engine.engine_state.state.draining == {A.version}

            await engine.release()
            await waiting

            assert await answer == A.version + " word word"
        assert engine.engine_state.state.resident == {B.version}


async def test_a_version_that_does_not_drain_in_time_serves_again(swapping: RunEngine) -> None:
    async with swapping(slots=1, longest_wait=1.5) as engine:
        await engine.loader.ensure_loaded(A)
        async with engine.answering(A) as answer:
            with pytest.raises(ResourceExhausted, match="1 in flight"):
                await engine.loader.ensure_loaded(B)

            assert await engine.asked("close") == [f"close {A.version}"]
            assert engine.engine_state.state.resident == {A.version}
            await engine.release()
            await answer
        assert await engine.chat(A) == A.version + " word word"


async def test_a_version_of_an_earlier_process_that_does_not_drain_in_time_blocks_no_load(
    swapping: RunEngine,
) -> None:
    async with swapping(slots=1, longest_wait=1.5) as engine:
        await engine.engine.load(A.version, engine.folders.fetch(A))  # not by the loader, which thus knows no folder
        async with engine.answering(A) as answer:
            async with asyncio.timeout(10):
                with pytest.raises(ResourceExhausted, match="1 in flight"):
                    await engine.loader.ensure_loaded(B)
            await engine.loader.sync_with_engine()
            await engine.release()
            assert await answer == A.version + " word word"
        await engine.loader.ensure_loaded(B)
        assert engine.engine_state.state.resident == {B.version}
        assert not engine.engine_state.state.draining


async def test_a_pinned_version_is_never_evicted(swapping: RunEngine) -> None:
    async with swapping() as engine:
        await engine.loader.ensure_loaded(A)
        await engine.loader.ensure_loaded(B)
        engine.loader.set_targets(pinned=frozenset({A.version}), alias_targets=frozenset())
        engine.loader.set_placed(frozenset())
        await engine.chat(B)  # A was idle longer

        await engine.loader.ensure_loaded(C)
        assert engine.engine_state.state.resident == {A.version, C.version}

        engine.loader.set_targets(pinned=frozenset({A.version, C.version}), alias_targets=frozenset())
        engine.loader.set_placed(frozenset())
        with pytest.raises(ResourceExhausted, match=r"\(pinned\), .*\(pinned\)"):
            await engine.loader.ensure_loaded(D)


async def test_versions_without_an_alias_are_evicted_first(swapping: RunEngine) -> None:
    async with swapping() as engine:
        engine.loader.set_targets(pinned=frozenset(), alias_targets=frozenset({A.version}))
        engine.loader.set_placed(frozenset({A.version}))
        await engine.loader.ensure_loaded(A)
        await engine.chat(A)
        await engine.loader.ensure_loaded(B)
        await engine.chat(B)

        await engine.loader.ensure_loaded(C)

        assert engine.engine_state.state.resident == {A.version, C.version}


async def test_preloading_evicts_no_needed_version(swapping: RunEngine) -> None:
    async with swapping() as engine:
        engine.loader.set_targets(pinned=frozenset(), alias_targets=frozenset({A.version, B.version, C.version}))
        engine.loader.set_placed(frozenset({A.version, B.version, C.version}))
        assert await engine.loader.preload(A)
        assert await engine.loader.preload(B)

        assert not await engine.loader.preload(C)

        assert engine.engine_state.state.resident == {A.version, B.version}


async def test_a_waiting_load_is_not_starved_by_another_version(swapping: RunEngine) -> None:
    async with swapping("--load-seconds", "0.02", slots=1) as engine:
        stop = False

        async def ask_for_a() -> None:
            while not stop:
                await engine.loader.ensure_loaded(A)
                await engine.chat(A)

        greedy = [asyncio.create_task(ask_for_a()) for _ in range(4)]
        await engine.until_resident(A)
        async with asyncio.timeout(8):
            for version in (B, C, B):
                await engine.loader.ensure_loaded(version)
        stop = True
        for task in greedy:
            task.cancel()
        await asyncio.wait(greedy)


async def test_a_load_that_has_just_ended_is_not_joined(swapping: RunEngine) -> None:
    """If its version had been evicted again at once, callers would join the ended load repeatedly and block the event
    loop.
    """

    def give_up(signal_: int, frame: FrameType | None) -> None:
        raise AssertionError("it goes round and round")

    async with swapping() as engine:
        ended = asyncio.create_task(asyncio.sleep(0, True))
        await ended
        engine.loader._loads[A.version] = ended
        before = signal.signal(signal.SIGALRM, give_up)  # a timeout of the event loop would not fire
        signal.setitimer(signal.ITIMER_REAL, 5)
        try:
            await engine.loader.ensure_loaded(A)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert await engine.asked("load") == [f"load {A.version}"]


async def test_a_slow_engine_report_starves_no_load(swapping: RunEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the engine's state is read, another caller is promised the adapter, again and again; all callers are
    served.
    """
    async with swapping(slots=1) as engine:
        list_adapters = engine.engine.list_adapters

        async def adapters() -> Any:
            held = await list_adapters()
            await asyncio.sleep(0.1)
            return held

        monkeypatch.setattr(engine.engine, "list_adapters", adapters)

        async def ask_for_a() -> None:
            while True:
                await engine.loader.ensure_loaded(A)
                await engine.chat(A)

        greedy = [asyncio.create_task(ask_for_a()) for _ in range(4)]
        await engine.until_resident(A)
        async with asyncio.timeout(8):
            await engine.loader.ensure_loaded(B)
        failed = [task.exception() for task in greedy if task.done()]
        for task in greedy:
            task.cancel()
        await asyncio.wait(greedy)
        assert failed == []


async def test_a_version_rejected_by_the_engine_fails_permanently(swapping: RunEngine) -> None:
    async with swapping() as engine:
        engine.folders.behaviours[A.version] = {"behaviour": "refused"}
        lengths = []
        for _ in range(4):
            with pytest.raises(InvalidArgument) as caught:
                await engine.loader.ensure_loaded(A)
            assert caught.value.code == "engine_refused"
            rejection = engine.loader.rejection(A.version)
            assert rejection is not None
            lengths.append(len(list(walk_tb(rejection.__traceback__))))
        assert len(set(lengths)) == 1  # what is stored holds no frames of later requests

        assert engine.phases.failed == [(A.version, "engine_refused")]
        assert await engine.asked("load") == [f"load {A.version}"]
        assert engine.restarts == []
        engine.folders.behaviours.clear()
        engine.loader.clear_rejection(A.version)
        await engine.loader.ensure_loaded(A)
        assert engine.engine_state.state.resident == {A.version}


async def test_a_local_failure_does_not_affect_other_servers(swapping: RunEngine) -> None:
    async with swapping() as engine:
        engine.loader.set_targets(pinned=frozenset(), alias_targets=frozenset({A.version}))
        engine.loader.set_placed(frozenset({A.version}))
        engine.folders.behaviours[A.version] = {"behaviour": "refused"}
        with pytest.raises(InvalidArgument):
            await engine.loader.ensure_loaded(A)

        assert engine.phases.failed == []
        assert engine.loader.rejection(A.version) is not None


async def test_a_version_that_cannot_answer_is_unloaded(swapping: RunEngine) -> None:
    async with swapping() as engine:
        engine.folders.behaviours[A.version] = {"behaviour": "silent"}
        with pytest.raises(InvalidArgument) as caught:
            await engine.loader.ensure_loaded(A)

        assert caught.value.code == "cannot_answer"
        await engine.until(engine.engine.list_adapters, {})
        assert engine.engine_state.state.resident == set()
        assert engine.restarts == []


async def test_an_ignored_version_is_rejected_without_a_comparison_with_peft(
    swapping: RunEngine,
) -> None:
    async with swapping() as engine:
        engine.folders.behaviours[A.version] = {"behaviour": "ignored"}
        assert not engine.warming.has_reference(A.version)
        with pytest.raises(InvalidArgument) as caught:
            await engine.loader.ensure_loaded(A)

        assert caught.value.code == "no_effect"
        await engine.until(engine.engine.list_adapters, {})
        await engine.loader.ensure_loaded(B)
        assert engine.engine_state.state.resident == {B.version}
        assert engine.restarts == []


async def test_a_corrupting_version_restarts_the_engine(swapping: RunEngine) -> None:
    async with swapping() as engine:
        engine.folders.behaviours[A.version] = {"behaviour": "poison"}
        with pytest.raises(InvalidArgument) as caught:
            await engine.loader.ensure_loaded(A)

        assert caught.value.code == "poisons_engine"
        assert engine.phases.failed == [(A.version, "poisons_engine")]
        assert len(engine.restarts) == 1
        with pytest.raises(Unavailable):
            await engine.loader.ensure_loaded(B)


async def test_an_engine_that_dies_during_a_load_holds_nothing(swapping: RunEngine) -> None:
    async with swapping() as engine:
        await engine.hold("loads")
        loading = asyncio.create_task(engine.loader.ensure_loaded(A))
        await engine.until(lambda: engine.asked("load"), [f"load {A.version}"])

        engine.process.kill()

        with pytest.raises(Unavailable):
            await loading
        assert engine.engine_state.state.resident == set()
        assert engine.engine_state.state.loading == set()
        assert engine.phases.failed == []


async def test_an_engine_restarted_during_a_load_holds_nothing(swapping: RunEngine) -> None:
    async with swapping() as engine:
        await engine.hold("loads")
        loading = asyncio.create_task(engine.loader.ensure_loaded(A))
        await engine.until(lambda: engine.asked("load"), [f"load {A.version}"])

        engine.engine_state.update(status=EngineStatus.STARTING, life=2)
        engine.engine_state.update(status=EngineStatus.READY)
        await engine.release()

        with pytest.raises(Unavailable, match="restarted during the load"):
            await loading
        assert engine.engine_state.state.resident == set()


async def test_a_verified_version_is_reloaded_without_verification(swapping: RunEngine) -> None:
    async with swapping(slots=1) as engine:
        await engine.loader.ensure_loaded(A)
        await engine.loader.ensure_loaded(B)
        await engine.loader.ensure_loaded(A)

        assert await engine.asked("load", "complete") == [
            *(f"load {A.version}", f"complete {A.version}", f"load {B.version}", f"complete {B.version}"),
            f"load {A.version}",
        ]
        assert engine.engine_state.state.resident == {A.version}


async def test_after_a_restart_of_the_engine_versions_are_verified_again(swapping: RunEngine) -> None:
    async with swapping() as engine:
        await engine.loader.ensure_loaded(A)
        engine.engine_state.update(status=EngineStatus.STARTING, life=2)
        engine.engine_state.update(status=EngineStatus.READY)

        await engine.loader.ensure_loaded(A)

        assert await engine.asked("complete") == [f"complete {A.version}"] * 2
        assert _steps(engine, "probe") == 1  # its content has not changed, and it did not harm the base model


async def test_a_load_does_not_wait_for_another_versions_verification(swapping: RunEngine) -> None:
    async with swapping(slots=2) as engine:
        for version in (A, B, C):  # B and C are kept
            await engine.loader.ensure_loaded(version)
        await engine.hold("answers")
        on_trial = asyncio.create_task(engine.loader.ensure_loaded(D))
        await engine.until(lambda: engine.asked("complete"), [f"complete {one.version}" for one in (A, B, C, D)])

        await engine.loader.ensure_loaded(A)

        assert A.version in engine.engine_state.state.resident
        assert D.version in engine.engine_state.state.loading
        await engine.release()
        await on_trial
        assert engine.engine_state.state.resident == {A.version, D.version}


async def _load_while_another_is_on_trial(engine: Swapping, *versions: AdapterVersion) -> list[BaseException | None]:
    """Loads version A, and the other ones while A is verified, so that they form one group."""
    await engine.hold("answers")
    tasks = [asyncio.create_task(engine.loader.ensure_loaded(A))]
    await engine.until(lambda: engine.asked("complete"), [f"complete {A.version}"])
    for version in versions:
        tasks.append(asyncio.create_task(engine.loader.ensure_loaded(version)))
        await engine.until(lambda: engine.asked("load"), [f"load {one.version}" for one in (A, B, C, D)[: len(tasks)]])
    await engine.release()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_waiting_versions_are_verified_as_a_group(swapping: RunEngine) -> None:
    async with swapping(slots=4) as engine:
        results = await _load_while_another_is_on_trial(engine, B, C, D)

        assert results == [None] * 4
        assert sorted(await engine.asked("complete")) == sorted(f"complete {one.version}" for one in (A, B, C, D))
        assert _steps(engine, "probe") == 2


async def test_a_version_that_cannot_answer_is_found_in_its_group_and_the_others_serve(swapping: RunEngine) -> None:
    async with swapping(slots=4) as engine:
        engine.folders.behaviours[C.version] = {"behaviour": "silent"}

        results = await _load_while_another_is_on_trial(engine, B, C, D)

        assert [type(result) for result in results] == [type(None), type(None), InvalidArgument, type(None)]
        assert engine.phases.failed == [(C.version, "cannot_answer")]
        assert engine.engine_state.state.resident == {A.version, B.version, D.version}


async def test_if_a_group_corrupts_the_engine_each_of_its_versions_is_tried_alone(swapping: RunEngine) -> None:
    async with swapping(slots=4) as engine:
        engine.folders.behaviours[C.version] = {"behaviour": "poison"}

        results = await _load_while_another_is_on_trial(engine, B, C, D)

        assert results[0] is None
        assert {type(result) for result in results[1:]} == {Unavailable}
        assert engine.phases.failed == []
        assert len(engine.restarts) == 1
        await engine.next_life()
        await asyncio.gather(engine.loader.ensure_loaded(B), engine.loader.ensure_loaded(D))
        with pytest.raises(InvalidArgument):
            await engine.loader.ensure_loaded(C)
        assert engine.phases.failed == [(C.version, "poisons_engine")]


async def test_the_metrics_break_down_the_time_of_a_load(swapping: RunEngine) -> None:
    async with swapping(slots=1) as engine:
        await engine.loader.ensure_loaded(A)
        await engine.loader.ensure_loaded(B)

        steps = {step: _steps(engine, step) for step in ("fetch", "turn", "room", "engine", "trial", "probe")}
        assert steps == {"fetch": 2, "turn": 4, "room": 2, "engine": 2, "trial": 2, "probe": 2}


def _steps(engine: Swapping, step: str) -> float | None:
    name = "pointsman_lora_adapter_load_step_duration_seconds_count"
    return engine.metrics.registry.get_sample_value(name, {"step": step})


async def test_a_dropped_version_is_drained_and_then_unloaded(swapping: RunEngine) -> None:
    async with swapping() as engine:
        await engine.loader.ensure_loaded(A)
        async with engine.answering(A) as answer:
            engine.loader.unload(A.version)
            await engine.until(lambda: engine.asked("close"), [f"close {A.version}"])
            assert engine.engine_state.state.draining == {A.version}
            assert A.version in await engine.engine.list_adapters()

            await engine.release()

            assert await answer == A.version + " word word"
        await engine.until(engine.engine.list_adapters, {})
        assert engine.engine_state.state.draining == set()


async def test_a_version_requested_while_draining_serves_again(swapping: RunEngine) -> None:
    async with swapping() as engine:
        await engine.loader.ensure_loaded(A)
        async with engine.answering(A) as answer:
            engine.loader.unload(A.version)
            await engine.until(lambda: engine.asked("close"), [f"close {A.version}"])
            wanted = asyncio.create_task(engine.loader.ensure_loaded(A))
            await engine.until(lambda: engine.asked("load"), [f"load {A.version}"] * 2)
            await engine.release()
            await wanted
            await answer

        assert engine.engine_state.state.resident == {A.version}
        assert engine.engine_state.state.draining == set()
        assert await engine.chat(A) == A.version + " word word"


async def test_a_cleanup_completes_interrupted_removals(swapping: RunEngine) -> None:
    async with swapping(slots=4) as engine:
        await engine.loader.ensure_loaded(A)
        await engine.loader.ensure_loaded(B)
        await engine.engine.load(C.version, engine.folders.fetch(C))  # of which the engine_state knows nothing
        await engine.engine.close_adapter(B.version)
        await engine.engine.remove(B.version)  # of which the engine_state knows too much

        await engine.loader.sync_with_engine()

        assert engine.engine_state.state.resident == {A.version}
        await engine.until(lambda: held(engine), {A.version})


async def held(engine: Swapping) -> set[str]:
    return set(await engine.engine.list_adapters())


async def test_comparison_with_peft_and_a_load_do_not_evict_each_other(
    swapping: RunEngine,
) -> None:
    async with swapping("--answer-seconds", "0.3", slots=2) as engine:
        engine.folders.behaviours[A.version] = {"answer_ids": [1, 2, 3]}
        engine.warming.set_reference(A.version, Reference((ReferenceRow((1,), (1, 2, 3), (9.0,) * 3),) * 2))
        first = asyncio.create_task(engine.loader.ensure_loaded(A))
        await engine.until(lambda: engine.asked("load"), [f"load {A.version}"])

        await asyncio.gather(engine.loader.ensure_loaded(B), first)

        assert await engine.asked("load", "remove") == [f"load {A.version}", f"load {B.version}"]
        assert len(await engine.asked("complete")) == 1 + 2 + 1
        assert engine.engine_state.state.resident == {A.version, B.version}
