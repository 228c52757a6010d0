"""Executes one training job: runs the trainer process, collects its output, and registers the trained adapter."""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointsman_servicekit.errors import FailedPrecondition, PointsmanError, ResourceExhausted, Unavailable

import pointsman_lora_server
from pointsman_lora_server.engine.process import SupervisedChild
from pointsman_lora_server.jobs.folder import JobFolder
from pointsman_lora_server.jobs.job import Job, JobEnvironment, RegisterAdapter, TrainedAdapter

log = logging.getLogger(__name__)

TRAINER_MODULE = "pointsman_lora_server.training"
NICE = 19
"""The nice value of the trainer process, the lowest priority, so that an engine on the same machine gets the CPU
first."""
SIGNAL_EXIT_CODE = 128
"""The exit code of a command that a signal ended is this plus the signal's number."""
STOPPED_EXIT_CODE = 130
"""The exit code of a trainer that received SIGINT or SIGTERM and shut down by itself."""
STOP_SECONDS = 20.0
"""Seconds between SIGTERM and SIGKILL when the trainer is stopped."""
POLL_SECONDS = 0.1
"""Seconds between two checks whether the trainer has written new events."""
MAX_LINE_BYTES = 1 << 20
"""Lines of the trainer's stderr are cut to this many bytes."""
READ_BYTES = 1 << 16

REGISTER_ATTEMPTS = 8
MIN_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 1.0, 60.0
"""The wait between two attempts to register the adapter, in seconds: the first wait, and the largest one. It doubles
each time, about two minutes in all."""

AddEvent = Callable[[Mapping[str, Any]], None]
_OnLine = Callable[[str], None]


class TrainerProcess:
    """The trainer process of one job, in its own process group. When `wait` has returned, no process of the group is
    left.
    """

    def __init__(self, child: SupervisedChild) -> None:
        self._child = child
        self._stop_requested = asyncio.Event()

    @classmethod
    async def start(cls, command: Sequence[str], variables: Mapping[str, str], events: Path) -> "TrainerProcess":
        """Starts a trainer with `command`; its environment is exactly `variables`.

        Its stdout is appended to the file `events` without passing through this process, so no event is lost if this
        process dies. Raises OSError if the file cannot be opened or the process cannot be created.
        """
        with events.open("ab") as stdout:
            child = await SupervisedChild.start(command, variables, stdout, asyncio.subprocess.PIPE)
            return cls(child)

    @property
    def group(self) -> int:
        """Returns the id of the trainer's process group, for tests and logs."""
        return self._child.group

    async def wait(self, on_error_line: _OnLine) -> int:
        """Waits until the trainer has closed stderr and ended; returns its exit code.

        The code is 128 + the signal's number if a signal ended the trainer, and negative if its whole process group was
        killed. `on_error_line` is called with each line of stderr that is not blank, cut to `MAX_LINE_BYTES`. If this
        call is cancelled or `on_error_line` raises, the trainer is stopped first.
        """
        process = self._child.process
        assert process.stderr is not None
        reader = asyncio.create_task(_read_lines(process.stderr, on_error_line))
        killer = asyncio.create_task(self._kill_after_stop())
        try:
            await asyncio.shield(reader)
            return await process.wait()
        finally:
            killer.cancel()
            await asyncio.shield(self._end(reader))

    def stop(self) -> None:
        """Sends the trainer SIGTERM; `wait` kills it if it does not end within `STOP_SECONDS`."""
        self._child.terminate()
        self._stop_requested.set()

    async def _kill_after_stop(self) -> None:
        await self._stop_requested.wait()
        await asyncio.sleep(STOP_SECONDS)
        self._child.kill()

    async def _end(self, reader: "asyncio.Task[None]") -> None:
        process = self._child.process
        if process.returncode is None:
            self.stop()
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await process.wait()
        self._child.kill()
        await process.wait()
        await asyncio.gather(reader, return_exceptions=True)
        self._child.release()


@dataclass(frozen=True, slots=True)
class TrainerExit:
    code: int
    error: str

    @property
    def was_killed(self) -> bool:
        """Returns whether a signal ended the trainer before it could shut down by itself, according to its exit
        code.
        """
        return self.code < 0 or (self.code > SIGNAL_EXIT_CODE and self.code != STOPPED_EXIT_CODE)


class ErrorOutput:
    """Divides the trainer's stderr into warnings, which become events of the job, and the final error."""

    def __init__(self, add_event: AddEvent) -> None:
        self._add_event = add_event
        self._error: list[str] = []

    @property
    def error(self) -> str:
        return "\n".join(self._error)

    def add_line(self, line: str) -> None:
        """Adds a line of the trainer's stderr.

        From the first line that begins with "error: " on, all lines belong to the error. Each line before it is a
        warning.
        """
        if self._error or line.startswith("error: "):
            self._error.append(line.removeprefix("error: "))
        else:
            self._add_event({"event": "warning", "text": line})


async def start_trainer(
    environment: JobEnvironment, folder: JobFolder, job: Job, parent: Path | None
) -> TrainerProcess:
    """Starts the trainer of a job. `parent` is the folder of the adapter from which training starts; None starts with a
    new adapter.

    Raises OSError if the job's file of events cannot be opened, or the process cannot be created.
    """
    command = trainer_command(environment, folder, job, parent)
    return await TrainerProcess.start(command, trainer_variables(environment), folder.events_file)


async def wait_for_trainer(
    trainer: TrainerProcess, folder: JobFolder, add_event: AddEvent, on_new_events: Callable[[], None]
) -> TrainerExit:
    """Waits until the trainer has ended. Returns its exit code and the error that it printed, or if it printed none, a
    text with the exit code.

    `add_event` is called with {"event": "warning", "text": ...} for each warning on stderr. `on_new_events` is called
    whenever the job's file of events has grown, and at the end.
    """
    output = ErrorOutput(add_event)
    watcher = asyncio.create_task(_watch_events(folder, on_new_events))
    try:
        code = await trainer.wait(output.add_line)
    finally:
        watcher.cancel()
        folder.remove_incomplete_event()  # before another event is appended: the trainer may have been killed
        on_new_events()
    return TrainerExit(code, output.error or f"the trainer ended with exit code {code}")


def trainer_command(environment: JobEnvironment, folder: JobFolder, job: Job, parent: Path | None) -> list[str]:
    request = job.request
    options: dict[str, object] = {
        "base-model": environment.base_model.absolute(),
        "base-model-name": environment.base_model_name,
        "data": request.data,
        "eval-data": request.heldout,
        "system": request.system,
        "name": request.name,
        "out": folder.out,
        "method": environment.methods.get(request.method, request.method),
        "init-from": parent,
        "init-from-name": request.parent or None,
        "checkpoint": folder.checkpoint,
        "checkpoint-seconds": environment.checkpoint_seconds,
        "nice": NICE,
        **request.options,
    }
    given = [part for name, value in options.items() if value is not None for part in (f"--{name}", str(value))]
    return [str(environment.python.absolute()), "-m", TRAINER_MODULE, *given, "--resume"]


def trainer_variables(environment: JobEnvironment) -> dict[str, str]:
    """Returns the environment variables for a trainer process.

    They are the variables of `environment` without `POINTSMAN_*`. PYTHONPATH is set to a folder that contains only this
    package.
    """
    inherited = {name: value for name, value in environment.environment.items() if not name.startswith("POINTSMAN_")}
    return inherited | {
        "PYTHONPATH": str(_package_path(environment.folder)),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


async def register_result(job: Job, folder: JobFolder, register: RegisterAdapter) -> str:
    """Registers the adapter that a job has trained; returns the version that it was registered as.

    If `register` raises Unavailable or ResourceExhausted, it is called again, up to `REGISTER_ATTEMPTS` times in all;
    then the last error is raised. Other errors are raised at once. Raises OSError or ValueError if the trainer's report
    cannot be read.
    """
    trained = TrainedAdapter(
        name=job.request.name,
        folder=folder.out,
        alias_suffix=job.request.alias_suffix,
        force=job.request.force,
        facts=_facts(job, _read_report(folder)),
        parent=job.request.parent,
        author=job.request.author,
    )
    backoff = MIN_BACKOFF_SECONDS
    for _ in range(REGISTER_ATTEMPTS - 1):
        try:
            return await register(trained)
        except (Unavailable, ResourceExhausted) as error:
            log.warning("%s cannot be registered yet: %s", job.id, error.message)
            await asyncio.sleep(backoff)
            backoff = min(MAX_BACKOFF_SECONDS, 2 * backoff)
    return await register(trained)


def describe_error(error: PointsmanError, folder: JobFolder) -> str:
    """Returns a text with the error's message and code, and the folder of the job's trained adapter if there is one.

    The folder is left out if the code is "not_better", because the adapter was registered in spite of the error.
    """
    text = f"{error.message} ({error.code})"
    if isinstance(error, FailedPrecondition) and error.code == "not_better":
        return text  # the message says that the version is registered
    return f"{text}; the adapter is in {folder.out}" if folder.out.exists() else text


def _facts(job: Job, report: Mapping[str, Any]) -> dict[str, str]:
    recipe, data = report.get("recipe", {}), report.get("data", {})
    facts = {
        "job": job.id,
        "method": job.request.method,
        "seed": recipe.get("seed"),
        "train_file": data.get("file"),
        "train_rows": data.get("rows"),
        "heldout_loss": report.get("metrics", {}).get("heldout_loss"),
    }
    return {**job.request.facts, **{name: str(value) for name, value in facts.items() if value is not None}}


def _read_report(folder: JobFolder) -> Mapping[str, Any]:
    report = json.loads((folder.out / "training.json").read_text("utf-8"))
    return report if isinstance(report, dict) else {}


def _package_path(folder: Path) -> Path:
    """Creates a folder that contains only a link to this package, below `folder`, and returns it for use in PYTHONPATH.

    The folder in which this package is installed cannot be used, because it also contains other packages, of which the
    engine's environment has its own versions.
    """
    path = folder / ".sources"
    path.mkdir(parents=True, exist_ok=True)
    link, package = path / "pointsman_lora_server", Path(pointsman_lora_server.__file__).parent
    if not link.is_symlink() or link.readlink() != package:
        link.unlink(missing_ok=True)
        link.symlink_to(package)
    return path


async def _watch_events(folder: JobFolder, on_new_events: Callable[[], None]) -> None:
    size = folder.events_size()
    while True:
        await asyncio.sleep(POLL_SECONDS)
        if (new_size := folder.events_size()) != size:
            size = new_size
            on_new_events()


async def _read_lines(stream: asyncio.StreamReader, on_line: _OnLine) -> None:
    rest = b""
    while chunk := await stream.read(READ_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        rest = rest[:MAX_LINE_BYTES]
        for line in lines:
            _pass_on(line, on_line)
    _pass_on(rest, on_line)


def _pass_on(line: bytes, on_line: _OnLine) -> None:
    if text := line[:MAX_LINE_BYTES].decode(errors="replace").rstrip():
        on_line(text)
