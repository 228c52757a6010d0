"""One job from its trainer's first line to its last."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointsman_lora_server.jobs import trainer
from pointsman_lora_server.jobs.folder import JobFolder
from pointsman_lora_server.jobs.job import Job, JobEnvironment
from pointsman_lora_server.jobs.trainer import Trainer

NICE = 19
"""The engine beside it goes first."""
SIGNALLED = 128
"""Exit codes above it are signals'."""
STOPPED = 130
"""The trainer's own, when it was asked to stop."""

LOOK = 0.1
"""Seconds between two looks at what the trainer has written."""

Tell = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class TrainerExit:
    code: int
    error: str

    @property
    def was_killed(self) -> bool:
        """By someone else: it may go on from its checkpoint."""
        return self.code < 0 or (self.code > SIGNALLED and self.code != STOPPED)


class ErrorOutput:
    """Sorts what the trainer says on standard error: warnings, and its last words."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._error: list[str] = []

    @property
    def error(self) -> str:
        return "\n".join(self._error)

    def line(self, line: str) -> None:
        """What begins with "error:" is the end, with all lines after it."""
        if self._error or line.startswith("error: "):
            self._error.append(line.removeprefix("error: "))
        else:
            self._tell({"event": "warning", "text": line})


async def start(place: JobEnvironment, folder: JobFolder, job: Job, parent: Path | None) -> Trainer:
    """`parent` is the folder of the adapter to start from. Raises OSError."""
    variables = trainer.environment(place.environment, place.folder)
    return await Trainer.start(command(place, folder, job, parent), variables, folder.events_file)


async def to_end(process: Trainer, folder: JobFolder, tell: Tell, more: Callable[[], None]) -> TrainerExit:
    """`tell` gets what the trainer does not write into the folder itself; `more` is called when it has."""
    output = ErrorOutput(tell)
    watching = asyncio.create_task(_watch(folder, more))
    try:
        code = await process.wait(output.line)
    finally:
        watching.cancel()
        folder.mend()  # before anything else is told: a trainer that was killed may have told half of something
        more()
    return TrainerExit(code, output.error or f"the trainer ended with exit code {code}")


async def _watch(folder: JobFolder, more: Callable[[], None]) -> None:
    size = folder.size_of_events()
    while True:
        await asyncio.sleep(LOOK)
        if (now := folder.size_of_events()) != size:
            size = now
            more()


def command(place: JobEnvironment, folder: JobFolder, job: Job, parent: Path | None) -> list[str]:
    order = job.order
    options: dict[str, object] = {
        "base-model": place.base_model.absolute(),
        "base-model-name": place.base_model_name,
        "data": order.data,
        "heldout": order.heldout,
        "system": order.system,
        "name": order.name,
        "out": folder.out,
        "method": order.method,
        "parent": parent,
        "parent-name": order.parent or None,
        "checkpoint": folder.checkpoint,
        "checkpoint-seconds": place.checkpoint_seconds,
        "nice": NICE,
        **order.options,
    }
    given = [part for name, value in options.items() if value is not None for part in (f"--{name}", str(value))]
    return [str(place.python.absolute()), "-m", trainer.MODULE, *given, "--resume"]
