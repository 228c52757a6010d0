"""The queue of training jobs, with a scripted trainer."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pointsman_lora_server.jobs import execution
from pointsman_lora_server.jobs import queue as queue_module
from pointsman_lora_server.jobs.folder import JobFolder
from pointsman_lora_server.jobs.job import Job, JobEnvironment, JobRequest, JobState, TrainedAdapter
from pointsman_lora_server.jobs.queue import JobQueue, running_queue
from pointsman_lora_server.training.methods import installed_methods
from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted, Unavailable

PATIENCE = 30.0  # seconds; reached only if a test fails

# Stands for the engine's python. What it does is the first alias_suffix of its data: it is a row's text.
TRAINER = """
import json, os, pathlib, signal, sys, time
arguments = sys.argv[3:]
given = {}
for part in arguments:
    if part.startswith("--"):
        name = part
        given[name] = True
    else:
        given[name] = part
def tell(event, **facts):
    print(json.dumps({"event": event, **facts}), flush=True)
def stop(*_):
    sys.exit(130)
what, *more = json.loads(pathlib.Path(given["--data"]).read_text())["text"].split()
signal.signal(signal.SIGTERM, signal.SIG_IGN if what == "ignore" else stop)
out, checkpoint = pathlib.Path(given["--out"]), pathlib.Path(given["--checkpoint"])
lives = checkpoint / "lives"
checkpoint.mkdir(exist_ok=True)
life = len(lives.read_text()) if lives.exists() else 0
lives.write_text("x" * (life + 1))
tell("start", life=life, given=given, pid=os.getpid(), environment=sorted(os.environ))
print("a warning of a library", file=sys.stderr, flush=True)
if what in ("hang", "ignore") or (what == "hang_once" and life == 0):
    while True:
        signal.pause()
if what == "die" and life < int(more[0]):
    os.kill(os.getpid(), signal.SIGKILL)
if what == "die_amid_an_event" and life == 0:
    os.write(1, b'{"event": "st')
    os.kill(os.getpid(), signal.SIGKILL)
if what == "write_long_lines":
    print("x" * (3 << 20), "y" * 100_000, "no end", sep="\\n", end="", file=sys.stderr, flush=True)
if what == "refuse":
    print("error: rows.jsonl:1: not JSON", "rows.jsonl:2: not JSON", sep="\\n", file=sys.stderr)
    sys.exit(1)
tell("step", step=1, steps=1, loss=0.5)
out.mkdir()
report = {"recipe": {"seed": 7}, "data": {"rows": 3}, "metrics": {"heldout_loss": 0.5}}
(out / "training.json").write_text(json.dumps(report))
tell("done", folder=str(out), merged=str(out / "merged") if given["--method"] == "dora" else None)
"""

Enter = Callable[..., AbstractAsyncContextManager[JobQueue]]


class Registrar:
    """Replaces the registration of trained adapters."""

    def __init__(self) -> None:
        self.results: list[TrainedAdapter] = []
        self.failures: list[Exception] = []
        self.asked = asyncio.Event()

    async def __call__(self, result: TrainedAdapter) -> str:
        self.asked.set()
        self.results.append(result)
        if self.failures:
            raise self.failures.pop(0)
        return f"{result.name}@0123456789ab"


@pytest.fixture
def registrar() -> Registrar:
    return Registrar()


@pytest.fixture
def place(tmp_path: Path) -> JobEnvironment:
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable} -I\n{TRAINER}")
    python.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "POINTSMAN_ENGINE_SECRET": "s3cret"}
    return JobEnvironment(
        tmp_path / "jobs", python, tmp_path / "base", "tiny", environment, installed_methods(), (tmp_path,)
    )


@pytest.fixture
def enter(place: JobEnvironment, registrar: Registrar) -> Enter:
    async def find(version: str) -> Path:
        if version != "triage@0123456789ab":
            raise NotFound(f"there is no '{version}'", code="unknown_version")
        return Path("/store/triage")

    @asynccontextmanager
    async def entering() -> AsyncIterator[JobQueue]:
        async with running_queue(place, registrar, find) as line:
            yield line

    return entering


@pytest.fixture
def order(tmp_path: Path) -> Callable[..., JobRequest]:
    def make(does: str = "train", **more: Any) -> JobRequest:
        data = tmp_path / "rows.jsonl"
        data.write_text(json.dumps({"text": does}))
        return JobRequest(**{"name": "triage", "data": data, **more})

    return make


async def within(work: Coroutine[Any, Any, Any]) -> Any:
    return await asyncio.wait_for(work, PATIENCE)


async def end_of(line: JobQueue, job: Job) -> Job:
    async def wait() -> Job:
        async for _ in line.watch(job.id, 0):
            pass
        return line.get(job.id)

    found: Job = await within(wait())
    return found


async def event(line: JobQueue, job: Job, kind: str, **facts: object) -> dict[str, Any]:
    """Waits for an event."""

    async def wait() -> dict[str, Any]:
        async for _, event_facts in line.watch(job.id, 0):
            if event_facts["event"] == kind and facts.items() <= event_facts.items():
                return event_facts
        raise AssertionError(f"the job ended without {kind}")

    found: dict[str, Any] = await within(wait())
    return found


async def test_a_job_is_trained_and_registered_with_its_metadata(
    enter: Enter, order: Callable[..., JobRequest], registrar: Registrar
) -> None:
    async with enter() as line:
        started = await line.create(
            order(alias_suffix="canary", author="ada", options={"epochs": "4"}, facts={"data_set": "t/1"})
        )
        assert started.state is JobState.QUEUED
        job = await end_of(line, started)
    assert (job.state, job.version, job.error) == (JobState.SUCCEEDED, "triage@0123456789ab", "")
    (result,) = registrar.results
    assert (result.name, result.alias_suffix, result.force, result.author) == ("triage", "canary", False, "ada")
    assert result.folder.name == "out"
    facts = {"job": job.id, "method": "lora", "seed": "7", "train_rows": "3", "heldout_loss": "0.5"}
    assert result.facts == {"data_set": "t/1", **facts}


async def test_the_trainer_gets_its_settings_and_no_secrets(
    enter: Enter, order: Callable[..., JobRequest], tmp_path: Path
) -> None:
    async with enter() as line:
        job = await line.create(order(parent="triage@0123456789ab", options={"epochs": "4"}))
        start = await event(line, job, "start")
    given = start["given"]
    assert given["--data"] == str(tmp_path / "jobs" / job.id / "input" / "data" / "rows.jsonl")
    expected = {
        "--epochs": "4", "--name": "triage", "--init-from": "/store/triage", "--init-from-name": "triage@0123456789ab",
        "--nice": "19", "--resume": True,
    }  # fmt: skip
    assert {name: given[name] for name in expected} == expected
    assert "POINTSMAN_ENGINE_SECRET" not in start["environment"]


async def test_events_can_be_read_from_any_position(enter: Enter, order: Callable[..., JobRequest]) -> None:
    async with enter() as line:
        job = await line.create(order())
        events = [(number, found["event"]) async for number, found in line.watch(job.id, 0)]
        again = [(number, found["event"]) async for number, found in line.watch(job.id, 3)]
    assert [number for number, _ in events] == list(range(len(events)))
    assert sorted(kind for _, kind in events) == ["done", "start", "state", "state", "state", "step", "warning"]
    assert again == events[3:]


async def test_jobs_run_one_after_the_other(enter: Enter, order: Callable[..., JobRequest]) -> None:
    async with enter() as line:
        first = await line.create(order("hang"))
        await event(line, first, "start")
        second = await line.create(order())
        assert [job.state for job in line.list("")] == [JobState.QUEUED, JobState.RUNNING]
        assert (await within(line.cancel(first.id))).state is JobState.CANCELLED
        assert (await end_of(line, second)).state is JobState.SUCCEEDED


async def test_a_queued_job_is_cancelled_at_once(
    enter: Enter, order: Callable[..., JobRequest], registrar: Registrar
) -> None:
    async with enter() as line:
        first = await line.create(order("hang"))
        await event(line, first, "start")
        second = await line.create(order())
        assert (await line.cancel(second.id)).state is JobState.CANCELLED
        await within(line.cancel(first.id))
        assert [found["event"] async for _, found in line.watch(second.id, 0)] == ["state", "state"]
    assert registrar.results == []


async def test_a_trainer_that_does_not_stop_is_killed(
    enter: Enter, order: Callable[..., JobRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "STOP_SECONDS", 0.3)
    async with enter() as line:
        job = await line.create(order("ignore"))
        pid = (await event(line, job, "start"))["pid"]
        assert (await within(line.cancel(job.id))).state is JobState.CANCELLED
        await asyncio.to_thread(_see_it_gone, pid)


async def test_a_trainers_error_is_the_jobs_error(enter: Enter, order: Callable[..., JobRequest]) -> None:
    async with enter() as line:
        job = await end_of(line, await line.create(order("refuse")))
    assert (job.state, job.error) == (JobState.FAILED, "rows.jsonl:1: not JSON\nrows.jsonl:2: not JSON")


async def test_a_very_long_line_of_a_trainer_is_cut(enter: Enter, order: Callable[..., JobRequest]) -> None:
    async with enter() as line:
        job = await end_of(line, await line.create(order("write_long_lines")))
        texts = [found["text"] async for _, found in line.watch(job.id, 0) if found["event"] == "warning"]
    assert (job.state, job.error) == (JobState.SUCCEEDED, "")
    assert texts == ["a warning of a library", "x" * execution.MAX_LINE_BYTES, "y" * 100_000, "no end"]


async def test_a_killed_trainer_resumes_from_its_checkpoint(enter: Enter, order: Callable[..., JobRequest]) -> None:
    async with enter() as line:
        job = await end_of(line, await line.create(order("die 2")))
        lives = [found["life"] async for _, found in line.watch(job.id, 0) if found["event"] == "start"]
    assert (job.state, job.resumed, lives) == (JobState.SUCCEEDED, 2, [0, 1, 2])


async def test_an_incomplete_event_does_not_affect_later_ones(enter: Enter, order: Callable[..., JobRequest]) -> None:
    async with enter() as line:
        job = await end_of(line, await line.create(order("die_amid_an_event")))
        events = [found async for _, found in line.watch(job.id, 0)]
    assert (job.state, job.resumed) == (JobState.SUCCEEDED, 1)
    states = [(found["state"], found.get("resumed", 0)) for found in events if found["event"] == "state"]
    assert states == [("queued", 0), ("running", 0), ("running", 1), ("succeeded", 1)]
    assert not [found for found in events if "{" in found.get("text", "")]


@pytest.mark.parametrize("half", ['{"event": "st', '{"ev', '{"event": "step"}'])
def test_warnings_next_to_an_incomplete_event_are_complete(tmp_path: Path, half: str) -> None:
    """The warnings arrive through another pipe, possibly before the process's death is known."""
    folder = JobFolder(tmp_path)
    folder.append({"event": "start"})
    with folder.events_file.open("a") as file:
        file.write(half)
    folder.append({"event": "warning", "text": "a warning of a library"})
    with folder.events_file.open("a") as file:
        file.write("\n")
    folder.append({"event": "end"})
    events = [found["event"] for _, found in folder.events()]
    assert events == ["start", *(["step"] if half.endswith("}") else []), "warning", "end"]
    assert [found["event"] for _, found in folder.events(next(iter(folder.events()))[0])] == events[1:]


async def test_a_repeatedly_killed_trainer_fails_the_job(enter: Enter, order: Callable[..., JobRequest]) -> None:
    async with enter() as line:
        job = await end_of(line, await line.create(order("die 99")))
    assert (job.state, job.resumed) == (JobState.FAILED, queue_module.MAX_RESUMES + 1)
    assert "too little memory is the usual cause" in job.error


async def test_a_stopping_server_stops_the_trainer_and_resumes_at_the_next_start(
    enter: Enter, order: Callable[..., JobRequest]
) -> None:
    async with enter() as line:
        job = await line.create(order("hang_once"))
        pid = (await event(line, job, "start"))["pid"]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    async with enter() as line:
        ended = await end_of(line, job)
    assert (ended.state, ended.resumed) == (JobState.SUCCEEDED, 0)  # it was not killed


async def test_a_state_that_cannot_be_saved_does_not_hold_up_the_stop(
    enter: Enter, order: Callable[..., JobRequest], place: JobEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "STOP_SECONDS", 0.3)
    async with asyncio.timeout(PATIENCE) as limit, enter() as line:
        job = await line.create(order("ignore"))
        await event(line, job, "start")
        shutil.rmtree(place.folder / job.id)
    assert not limit.expired()


async def test_a_job_that_is_cancelled_while_the_server_stops_is_not_resumed(
    enter: Enter, order: Callable[..., JobRequest], place: JobEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "STOP_SECONDS", 0.3)
    async with enter() as line:
        job = await line.create(order("ignore"))
        await event(line, job, "start")
        cancelling = asyncio.create_task(line.cancel(job.id))
        await asyncio.sleep(0)  # so that it begins
    await asyncio.wait_for(cancelling, PATIENCE)
    assert not JobFolder(place.folder / job.id).checkpoint.exists()
    async with enter() as line:
        assert line.get(job.id).state is JobState.CANCELLED


async def test_jobs_of_a_killed_server_resume_without_incomplete_events(
    enter: Enter, order: Callable[..., JobRequest], place: JobEnvironment
) -> None:
    async with enter() as line:
        job = await line.create(order("hang_once"))
        await event(line, job, "start")
    folder = JobFolder(place.folder / job.id)
    folder.write(replace(folder.read(), state=JobState.RUNNING))
    with (folder.path / "events.jsonl").open("a") as file:
        file.write('{"event": "st')
    async with enter() as line:
        ended = await end_of(line, job)
        events = [found["event"] async for _, found in line.watch(job.id, 0)]
    assert (ended.state, ended.resumed) == (JobState.SUCCEEDED, 1)
    assert events[-1] == "state"


async def test_a_job_of_a_repeatedly_killed_server_fails_and_its_checkpoint_is_removed(
    enter: Enter, order: Callable[..., JobRequest], place: JobEnvironment
) -> None:
    async with enter() as line:
        job = await line.create(order("hang"))
        await event(line, job, "start")
    folder = JobFolder(place.folder / job.id)
    assert folder.checkpoint.exists()
    folder.write(replace(folder.read(), state=JobState.RUNNING, resumed=queue_module.MAX_RESUMES))
    async with enter() as line:
        ended = line.get(job.id)
    assert (ended.state, ended.resumed) == (JobState.FAILED, queue_module.MAX_RESUMES + 1)
    assert "too little memory is the usual cause" in ended.error
    assert not folder.checkpoint.exists()


async def test_a_finished_training_is_registered_after_a_kill_without_repeating_it(
    enter: Enter, order: Callable[..., JobRequest], place: JobEnvironment, registrar: Registrar
) -> None:
    async with enter() as line:
        job = await line.create(order())
        await end_of(line, job)
    folder = JobFolder(place.folder / job.id)
    folder.write(replace(folder.read(), state=JobState.RUNNING, version=""))
    async with enter() as line:
        assert (await end_of(line, job)).version == "triage@0123456789ab"
        starts = [found async for _, found in line.watch(job.id, 0) if found["event"] == "start"]
    assert len(starts) == 1
    assert len(registrar.results) == 2


async def test_an_unavailable_registration_is_retried(
    enter: Enter, order: Callable[..., JobRequest], registrar: Registrar
) -> None:
    registrar.failures = [Unavailable("the engine is not there now", code="engine_unavailable")]
    async with enter() as line:
        assert (await end_of(line, await line.create(order()))).state is JobState.SUCCEEDED
    assert len(registrar.results) == 2


async def test_a_rejected_registration_reports_reason_and_folder(
    enter: Enter, order: Callable[..., JobRequest], registrar: Registrar
) -> None:
    registrar.failures = [InvalidArgument("rank 64 is above the engine's 16", code="rank_too_high")]
    async with enter() as line:
        job = await end_of(line, await line.create(order()))
    assert job.state is JobState.FAILED
    assert (
        job.error
        == f"rank 64 is above the engine's 16 (rank_too_high); the adapter is in {registrar.results[0].folder}"
    )


async def test_dora_is_not_registered_and_its_merged_model_is_named(
    enter: Enter, order: Callable[..., JobRequest], registrar: Registrar
) -> None:
    async with enter() as line:
        job = await end_of(line, await line.create(order(method="dora")))
    assert (job.state, job.version) == (JobState.SUCCEEDED, "")
    assert job.merged.endswith("out/merged")
    assert registrar.results == []


async def test_the_queue_is_bounded(enter: Enter, order: Callable[..., JobRequest]) -> None:
    async with enter() as line:
        first = await line.create(order("hang"))
        await event(line, first, "start")
        for _ in range(queue_module.MAX_QUEUED):
            await line.create(order())
        with pytest.raises(ResourceExhausted) as refused:
            await line.create(order())
        assert refused.value.code == "too_many_jobs"
        for job in line.list(""):
            await within(line.cancel(job.id))


async def test_concurrent_submissions_respect_the_queues_limit(enter: Enter, order: Callable[..., JobRequest]) -> None:
    async with enter() as line:
        first = await line.create(order("hang"))
        await event(line, first, "start")
        starts = [line.create(order()) for _ in range(queue_module.MAX_QUEUED + 5)]
        found = await asyncio.gather(*starts, return_exceptions=True)
        assert sum(isinstance(one, ResourceExhausted) for one in found) == 5
        assert len(line.list("")) == 1 + queue_module.MAX_QUEUED
        for job in line.list(""):
            await within(line.cancel(job.id))


async def test_a_job_that_cannot_be_created_leaves_the_queue(enter: Enter, order: Callable[..., JobRequest]) -> None:
    async with enter() as line:
        for _ in range(queue_module.MAX_QUEUED + 1):
            with pytest.raises(NotFound):
                await line.create(order(parent="triage@ffffffffffff"))
        assert (await end_of(line, await line.create(order()))).state is JobState.SUCCEEDED


async def test_ended_jobs_are_kept_up_to_a_maximum(
    enter: Enter, order: Callable[..., JobRequest], place: JobEnvironment
) -> None:
    async with enter() as line:
        first = await line.create(order("hang"))
        await event(line, first, "start")
        cancelled = []
        for _ in range(queue_module.MAX_FINISHED + 2):
            cancelled.append(await line.create(order()))
            await line.cancel(cancelled[-1].id)
        assert len(line.list("")) == queue_module.MAX_FINISHED + 1
        with pytest.raises(NotFound):
            line.get(cancelled[0].id)
        assert not (place.folder / cancelled[0].id).exists()
        await within(line.cancel(first.id))


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"name": "../x"}, "bad_name"),
        ({"data": Path("rows.jsonl")}, "bad_path"),
        ({"data": Path("/no/where.jsonl")}, "bad_path"),
        ({"heldout": Path("/dev/zero")}, "bad_path"),
        ({"system": Path("/tmp")}, "bad_path"),
        ({"method": "ia3"}, "bad_method"),
        ({"alias_suffix": "0123456789ab"}, "bad_alias"),
        ({"parent": "triage@prod"}, "bad_version"),
        ({"options": {"epochs": "0"}}, "bad_option"),
        ({"options": {"learning-rate": "nan"}}, "bad_option"),
        ({"options": {"out": "1"}}, "bad_option"),
    ],
)
async def test_an_invalid_job_is_rejected_before_anything_is_written(
    enter: Enter, order: Callable[..., JobRequest], place: JobEnvironment, wrong: dict[str, Any], code: str
) -> None:
    async with enter() as line:
        with pytest.raises(InvalidArgument) as refused:
            await line.create(order(**wrong))
        assert line.list("") == []
    assert refused.value.code == code


async def test_data_outside_of_the_allowed_folders_is_rejected(
    place: JobEnvironment, order: Callable[..., JobRequest], registrar: Registrar, tmp_path: Path
) -> None:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "link.jsonl").symlink_to(order().data)
    (allowed / "rows.jsonl").write_text('{"text": "train"}')

    async def find(version: str) -> Path:
        raise NotFound("no", code="unknown_version")

    async with running_queue(replace(place, data_roots=(allowed,)), registrar, find) as line:
        for data in (order().data, allowed / "link.jsonl", allowed / ".." / "rows.jsonl"):
            with pytest.raises(InvalidArgument, match="is not a readable regular file"):
                await line.create(order(data=data))
        assert (await end_of(line, await line.create(order(data=allowed / "rows.jsonl")))).state is JobState.SUCCEEDED


async def test_an_unknown_parent_or_job_is_rejected_at_once(enter: Enter, order: Callable[..., JobRequest]) -> None:
    async with enter() as line:
        with pytest.raises(NotFound):
            await line.create(order(parent="triage@ffffffffffff"))
        with pytest.raises(NotFound):
            await line.cancel("nobody")


async def test_a_job_that_is_being_registered_is_not_cancelled(
    enter: Enter, order: Callable[..., JobRequest], registrar: Registrar
) -> None:
    registrar.failures = [Unavailable("the engine is not there now", code="engine_unavailable")]
    async with enter() as line:
        job = await line.create(order())
        await within(registrar.asked.wait())
        with pytest.raises(FailedPrecondition) as refused:
            await line.cancel(job.id)
        assert refused.value.code == "too_late"
        assert (await end_of(line, job)).state is JobState.SUCCEEDED


def test_a_trainer_dies_with_its_killed_server_and_its_events_are_kept(tmp_path: Path) -> None:
    """A server in its own process starts a trainer, and is killed before it reads any event."""
    script = (
        "import asyncio, os, pathlib, sys, time\n"
        "from pointsman_lora_server.jobs.execution import TrainerProcess\n"
        "async def main():\n"
        "    events = pathlib.Path(sys.argv[2])\n"
        "    await TrainerProcess.start([sys.executable, '-c', sys.argv[1]], dict(os.environ), events)\n"
        "    print('started', flush=True)\n"
        "    time.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    waits = "import os, signal; print(*range(100), os.getpid(), sep='\\n', flush=True)\nwhile True: signal.pause()"
    events, deadline = tmp_path / "events.jsonl", time.monotonic() + PATIENCE
    with subprocess.Popen([sys.executable, "-c", script, waits, str(events)], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"started\n"
        while events.read_text().count("\n") < 101:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        server.kill()
    *numbers, pid = map(int, events.read_text().split())
    assert numbers == list(range(100))
    _see_it_gone(pid)


def _see_it_gone(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while _is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
