"""The smoke test process: it is reused for several versions, and its failures have the same effect as its absence."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from pathlib import Path

import pytest
from pointsman_lora_server.domain import AdapterVersion
from pointsman_lora_server.smoke.runner import PeftSmokeTest, SmokeLimits
from pointsman_servicekit.errors import InvalidArgument, Unavailable

from tests.lora_server.test_smoke_cpu_share import start, state_of

DOUBLE = str(Path(__file__).with_name("smoke_double.py"))
VERSION = AdapterVersion("triage", "0" * 64, "tiny", 4, ("q_proj",), 1, 0)

LIMITS = SmokeLimits()

MakeSmoke = Callable[..., AbstractAsyncContextManager[PeftSmokeTest]]


@pytest.fixture
def smoking() -> MakeSmoke:
    @asynccontextmanager
    async def run(*arguments: str, limits: SmokeLimits = LIMITS) -> AsyncIterator[PeftSmokeTest]:
        smoke = PeftSmokeTest(Path("-"), Path("-"), limits, command=(sys.executable, DOUBLE, *arguments))
        yield smoke
        await smoke.close()
        assert smoke.pid is None

    return run


async def test_one_process_tests_all_versions(smoking: MakeSmoke, tmp_path: Path) -> None:
    async with smoking() as smoke:
        first = await smoke.run(VERSION, tmp_path / "good", ())
        pid = smoke.pid
        await asyncio.gather(*(smoke.run(VERSION, tmp_path / "good", ()) for _ in range(5)))

        assert smoke.pid == pid is not None
        assert first.rows[0].token_ids == (3, 4)


async def test_an_idle_process_ends_and_is_restarted_on_demand(smoking: MakeSmoke, tmp_path: Path) -> None:
    async with smoking(limits=SmokeLimits(idle_seconds=0.05)) as smoke:
        await smoke.run(VERSION, tmp_path / "good", ())
        await _until(lambda: smoke.pid is None)

        assert await smoke.run(VERSION, tmp_path / "good", ())


async def test_a_test_makes_way_for_processes_that_need_the_cores(smoking: MakeSmoke, tmp_path: Path) -> None:
    async with smoking(limits=SmokeLimits(cpu_share=0.01)) as smoke:
        await smoke.run(VERSION, tmp_path / "good", ())
        with ExitStack() as stack:
            for _ in range(2 * len(os.sched_getaffinity(0))):
                start(stack)
            testing = asyncio.create_task(smoke.run(VERSION, tmp_path / "busy", ()))
            pid = smoke.pid
            assert pid is not None
            await _until(lambda: state_of(pid) == "T")  # stopped
        await smoke.close()
        with pytest.raises(Unavailable):
            await testing


async def test_a_crash_is_retried_once(smoking: MakeSmoke, tmp_path: Path) -> None:
    async with smoking() as smoke:
        assert await smoke.run(VERSION, tmp_path / "crash_once", ())


async def test_a_process_killed_between_two_versions_is_restarted(smoking: MakeSmoke, tmp_path: Path) -> None:
    async with smoking() as smoke:
        await smoke.run(VERSION, tmp_path / "good", ())
        assert smoke.pid
        os.kill(smoke.pid, signal.SIGKILL)

        assert await smoke.run(VERSION, tmp_path / "good", ())


async def test_a_version_that_always_crashes_it_is_unavailable_and_not_invalid(
    smoking: MakeSmoke, tmp_path: Path
) -> None:
    async with smoking() as smoke:
        with pytest.raises(Unavailable, match="MemoryError: no more") as caught:
            await smoke.run(VERSION, tmp_path / "crash", ())

        assert caught.value.code == "smoke_unavailable"
        assert await smoke.run(VERSION, tmp_path / "good", ())


async def test_a_smoke_test_has_a_time_limit(smoking: MakeSmoke, tmp_path: Path) -> None:
    async with smoking(limits=SmokeLimits(trial_seconds=0.05)) as smoke:
        with pytest.raises(Unavailable, match=r"no answer within 0\.05 s.*POINTSMAN_LORA_SMOKE_TEST_CPU_SHARE"):
            await smoke.run(VERSION, tmp_path / "hang", ())


async def test_time_without_a_core_does_not_count(smoking: MakeSmoke, tmp_path: Path) -> None:
    """The test needs 0.5 s of CPU time, which take 5 s or more at a tenth of a core."""
    async with smoking(limits=SmokeLimits(cpu_share=0.1, trial_seconds=2.0)) as smoke:
        await smoke.run(VERSION, tmp_path / "good", ())
        with ExitStack() as stack:
            for _ in range(2 * len(os.sched_getaffinity(0))):
                start(stack)
            started = time.monotonic()
            await smoke.run(VERSION, tmp_path / "busy", ())
            assert time.monotonic() - started > 2.0


async def test_a_cancelled_call_leaves_no_answer_for_the_next(smoking: MakeSmoke, tmp_path: Path) -> None:
    async with smoking() as smoke:
        gone = asyncio.create_task(smoke.run(VERSION, tmp_path / "hang", ()))
        await _until(lambda: smoke.pid is not None)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone

        with pytest.raises(InvalidArgument):
            await smoke.run(VERSION, tmp_path / "weak", ())


async def test_closing_stops_a_running_smoke_test(smoking: MakeSmoke, tmp_path: Path) -> None:
    async with smoking() as smoke:
        trial = asyncio.create_task(smoke.run(VERSION, tmp_path / "hang", ()))
        await _until(lambda: smoke.pid is not None)

        await smoke.close()

        with pytest.raises(Unavailable):
            await trial


@pytest.mark.parametrize(("folder", "code"), [("weak", "no_effect"), ("refused", "peft_refused")])
async def test_a_finding_is_the_versions_fault(smoking: MakeSmoke, tmp_path: Path, folder: str, code: str) -> None:
    async with smoking() as smoke:
        with pytest.raises(InvalidArgument) as caught:
            await smoke.run(VERSION, tmp_path / folder, ())

        assert caught.value.code == code


async def test_an_environment_without_peft_names_the_setting(smoking: MakeSmoke, tmp_path: Path) -> None:
    async with smoking("unavailable") as smoke:
        with pytest.raises(Unavailable, match="POINTSMAN_LORA_SMOKE_TEST=off") as caught:
            await smoke.run(VERSION, tmp_path / "good", ())

        assert caught.value.code == "smoke_unavailable"


async def test_a_missing_engine_python_is_unavailable(tmp_path: Path) -> None:
    smoke = PeftSmokeTest(tmp_path / "nowhere" / "python", tmp_path)

    with pytest.raises(Unavailable, match="cannot be started"):
        await smoke.run(VERSION, tmp_path / "good", ())
    await smoke.close()


async def test_the_missing_torch_of_this_environment_is_reported(tmp_path: Path) -> None:
    """Runs the real module with a Python that lacks its dependencies."""
    smoke = PeftSmokeTest(Path(sys.executable), tmp_path)

    with pytest.raises(Unavailable, match="lacks what the test needs"):
        await smoke.run(VERSION, tmp_path / "good", ())
    await smoke.close()


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110  # a process tells no event of ours
            await asyncio.sleep(0.01)
