"""The engine's life cycle: each start has a new secret, the lora-server reads the state, and an engine with corrupted
answers is stopped."""

import asyncio
import json
import logging
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from pointsman_lora_server.domain import EngineState, EngineStatus
from pointsman_lora_server.engine import vllm_client
from pointsman_lora_server.engine.command import EngineCommand, GuardSecret, with_secrets
from pointsman_lora_server.engine.completion import EngineCorrupted, Probe
from pointsman_lora_server.engine.supervisor import Supervisor
from pointsman_lora_server.engine.vllm_client import VllmClient
from pointsman_lora_server.engine_state import EngineStateStore
from pointsman_servicekit.errors import Unavailable

from tests.gateway.doubles.waiting import until
from tests.ports import free_port

DOUBLE = Path(__file__).parent / "fake_engine.py"
BASE = "tiny-base"


@dataclass
class SupervisedEngine:
    engine_state: EngineStateStore
    engine: VllmClient
    probe: Probe
    supervisor: Supervisor
    secret: GuardSecret
    probes_failed: int = 0
    stop: Callable[[], object] = lambda: None  # filled in below
    log: Callable[[], str] = lambda: ""  # filled in below

    def count_probe_failure(self) -> None:
        self.probes_failed += 1

    async def until(self, holds: Callable[[EngineState], bool]) -> EngineState:
        async with asyncio.timeout(30):
            async for state in self.engine_state.watch():
                if holds(state):
                    return state
        raise AssertionError("the engine_state was closed")

    async def until_ready(self, life: int) -> EngineState:
        return await self.until(lambda state: state.status is EngineStatus.READY and state.life == life)


Run = Callable[..., AbstractAsyncContextManager[SupervisedEngine]]


@pytest.fixture
def run(caplog: pytest.LogCaptureFixture) -> Run:
    caplog.set_level(logging.INFO)

    @asynccontextmanager
    async def run(
        *options: str, probing: float = 60.0, drain: float = 20.0, start: float = 60.0
    ) -> AsyncIterator[SupervisedEngine]:
        listen = f"127.0.0.1:{free_port()}"
        arguments = (sys.executable, str(DOUBLE), "--port", listen.rpartition(":")[2], "--base", BASE, *options)
        secret, engine_state = GuardSecret(), EngineStateStore()
        async with vllm_client.open_client(f"http://{listen}", secret) as engine:
            meter = SupervisedEngine(engine_state, engine, None, None, secret)  # type: ignore[arg-type]  # filled in below
            meter.probe = Probe(engine, BASE, meter.count_probe_failure)
            lives = with_secrets(EngineCommand(arguments, os.environ), secret)
            meter.supervisor = Supervisor(
                next_command=lives,
                listen=listen,
                client=engine,
                engine_state=engine_state,
                probe=meter.probe,
                probe_interval=probing,
                shutdown_seconds=drain,
                max_start_seconds=start,
            )
            running = asyncio.create_task(meter.supervisor.run())
            meter.stop, meter.log = running.cancel, lambda: caplog.text
            try:
                yield meter
            finally:
                if not running.cancelling():
                    running.cancel()
                with suppress(asyncio.CancelledError):
                    await running

    return run


def adapter(folder: Path, behaviour: str) -> Path:
    (folder / "adapter_config.json").write_text(json.dumps({"behaviour": behaviour}))
    return folder


async def test_it_is_ready_once_the_reference_answers_exist(run: Run, tmp_path: Path) -> None:
    started = tmp_path / "started"
    async with run("--start-file", str(started)) as supervised:
        with pytest.raises(Unavailable):
            await supervised.probe.check()

        started.touch()

        await supervised.until_ready(life=1)
        await supervised.probe.check()


async def test_each_start_has_its_own_secret_that_is_not_logged(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async with run() as supervised:
        await supervised.until_ready(life=1)
        first = supervised.secret()
        await supervised.engine.list_adapters()

        supervised.supervisor.restart("for the test")

        await supervised.until_ready(life=2)
        assert supervised.secret() != first
        await supervised.engine.list_adapters()
        output = caplog.text
        assert first not in output
        assert supervised.secret() not in output


async def test_a_corrupted_engine_is_detected_without_requests_and_restarted(run: Run, tmp_path: Path) -> None:
    async with run(probing=0.05) as supervised:
        await supervised.until_ready(life=1)
        await supervised.engine.load("bad@1", adapter(tmp_path, "poison"))
        await supervised.engine.complete("bad@1", "Hello", 1)

        down = await supervised.until(lambda state: state.status is EngineStatus.DOWN)

        assert "the base model gives no answer" in down.detail
        assert supervised.probes_failed == 1
        await supervised.until_ready(life=2)
        await supervised.probe.check()
        assert await supervised.engine.list_adapters() == {}


async def test_a_load_detects_corruption_at_once(run: Run, tmp_path: Path) -> None:
    async with run() as supervised:
        await supervised.until_ready(life=1)
        await supervised.engine.load("bad@1", adapter(tmp_path, "poison"))
        await supervised.probe.check()
        await supervised.engine.complete("bad@1", "Hello", 1)

        with pytest.raises(EngineCorrupted):
            await supervised.probe.check()


async def test_a_start_that_is_corrupted_never_becomes_ready(run: Run) -> None:
    async with run("--base", "another-model") as supervised:
        down = await supervised.until(lambda state: state.status is EngineStatus.DOWN)

        assert f"does not hold {BASE}" in down.detail
        await supervised.until(lambda state: state.life == 2)


async def test_a_start_that_takes_longer_than_allowed_is_given_up(run: Run, tmp_path: Path) -> None:
    async with run("--start-file", str(tmp_path / "never"), start=0.5) as supervised:
        down = await supervised.until(lambda state: state.status is EngineStatus.DOWN)

        assert re.match(r"no answer for \d+ s; restarts in", down.detail)


async def test_a_dead_engine_is_not_reported_as_corrupted(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async with run(probing=0.05) as supervised:
        await supervised.until_ready(life=1)
        group = re.findall(r"process group (\d+)", caplog.text)[-1]
        os.killpg(int(group), signal.SIGKILL)

        await supervised.until_ready(life=2)

        assert supervised.probes_failed == 0


async def test_it_is_stopped_after_its_requests_have_ended(run: Run) -> None:
    """The real vLLM was seen to abort answers during its own drain."""
    async with run() as supervised, aiohttp.ClientSession() as http:
        await supervised.until_ready(1)
        url = supervised.engine._url
        await http.post(f"{url}/hold", json={"what": "answers"})
        asked = {"model": BASE, "messages": [{"role": "user", "content": "Hello"}], "stream": True}
        async with http.post(f"{url}/v1/chat/completions", json=asked) as answer:
            assert b"data: " in await answer.content.readline()
            assert await supervised.engine.count_in_flight() == 1
            supervised.stop()
            await until(lambda: supervised.engine_state.state.detail == "stopping")
            await http.post(f"{url}/release")
            assert (await answer.content.read()).endswith(b"data: [DONE]\n\n")
    assert "were not enough" not in supervised.log()


async def test_the_drain_has_a_time_limit(run: Run) -> None:
    async with run(drain=0.2) as supervised, aiohttp.ClientSession() as http:
        await supervised.until_ready(1)
        url = supervised.engine._url
        await http.post(f"{url}/hold", json={"what": "answers"})
        asked = {"model": BASE, "messages": [{"role": "user", "content": "Hello"}], "stream": True}
        async with http.post(f"{url}/v1/chat/completions", json=asked):
            supervised.stop()
            await until(lambda: "0.2 s were not enough" in supervised.log())
