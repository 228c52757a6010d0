"""A job's folder: job.json is replaced as a whole, events.jsonl only grows; what a kill cut off is taken away.

Two append to events.jsonl, whole lines: the trainer, and this server what becomes of the job.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from pointsman_lora_server.jobs.job import Job, JobRequest, JobState

_JOB, _EVENTS = "job.json", "events.jsonl"
_BEGINNING = b'{"event": '


@dataclass(frozen=True, slots=True)
class JobFolder:
    path: Path

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint"

    @property
    def out(self) -> Path:
        """Named as its parent is not: the trainer gets the adapter's name beside it."""
        return self.path / "out"

    @property
    def events_file(self) -> Path:
        return self.path / _EVENTS

    def size_of_events(self) -> int:
        """Bytes."""
        try:
            return self.events_file.stat().st_size
        except FileNotFoundError:
            return 0

    def make(self, job: Job) -> Job:
        """With the order's files copied, since theirs may change while the job waits. Raises OSError."""
        self.path.mkdir(parents=True)
        order = job.order
        copied = {
            kind: self._copy(kind, source)
            for kind, source in (("data", order.data), ("heldout", order.heldout), ("system", order.system))
            if source is not None
        }
        made = replace(job, order=replace(order, **copied))  # type: ignore[arg-type]  # paths, by their names
        self.write(made)
        return made

    def write(self, job: Job) -> None:
        unfinished = self.path / f".{_JOB}.unfinished"
        with unfinished.open("w", encoding="utf-8") as file:
            json.dump(asdict(job), file, default=_plain, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self.path / _JOB)

    def read(self) -> Job:
        """Raises OSError or ValueError where it is not there, or not a job's."""
        try:
            found = json.loads((self.path / _JOB).read_text("utf-8"))
            order = found.pop("order")
            paths = {key: Path(order[key]) if order[key] else None for key in ("data", "heldout", "system")}
            return Job(**{**found, "state": JobState(found["state"]), "order": JobRequest(**{**order, **paths})})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.path / _JOB} is not a job's: {error}") from error

    def append(self, event: Mapping[str, Any]) -> None:
        """On a line of its own, also where a trainer that was killed has left half of one."""
        with self.events_file.open("ab+") as file:
            begin = "" if _ends_a_line(file) else "\n"
            file.write(f"{begin}{json.dumps(event, ensure_ascii=False)}\n".encode())

    def events(self, offset: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """Whole ones from a byte on, each with the byte behind it."""
        try:
            with self.events_file.open("rb") as file:
                file.seek(offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        return
                    offset += len(line)
                    event = _event(line)
                    if event is not None:
                        yield offset, event
        except FileNotFoundError:
            return

    def last(self, kind: str) -> dict[str, Any] | None:
        return next(
            (event for event in reversed([event for _, event in self.events()]) if event["event"] == kind), None
        )

    def mend(self) -> None:
        """Cuts off half an event."""
        try:
            with self.events_file.open("rb+") as file:
                content = file.read()
                file.truncate(content.rfind(b"\n") + 1)
        except FileNotFoundError:
            return

    def drop_checkpoint(self) -> None:
        shutil.rmtree(self.checkpoint, ignore_errors=True)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def _copy(self, kind: str, source: Path) -> Path:
        """Under its own name, which the report tells."""
        target = self.path / "input" / kind / source.name
        target.parent.mkdir(parents=True)
        shutil.copyfile(source, target)
        return target


def _ends_a_line(file: BinaryIO) -> bool:
    if not file.seek(0, os.SEEK_END):
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _event(line: bytes) -> dict[str, Any] | None:
    """What a library printed among them is a warning; None for half an event, and for nothing."""
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if isinstance(event, dict) and isinstance(event.get("event"), str):
        return event
    said = line.strip()
    if said.startswith(_BEGINNING) or _BEGINNING.startswith(said):
        return None
    return {"event": "warning", "text": line.decode(errors="replace").rstrip()}


def _plain(value: object) -> str:
    return str(value.value if isinstance(value, JobState) else value)
