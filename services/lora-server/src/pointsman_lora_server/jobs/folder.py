"""The folder of a job: job.json is replaced atomically, events.jsonl is append-only.

Both the trainer and this server append whole lines to events.jsonl. What a kill cut off is removed.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from pointsman_lora_server.jobs.inputs import Inputs, copy_input
from pointsman_lora_server.jobs.job import Job, JobRequest, JobState

_JOB, _EVENTS = "job.json", "events.jsonl"
_EVENT_PREFIX = b'{"event": '


@dataclass(frozen=True, slots=True)
class JobFolder:
    path: Path

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint"

    @property
    def out(self) -> Path:
        """Where the trainer writes the adapter. Its name is not the adapter's, which the trainer is given
        separately."""
        return self.path / "out"

    @property
    def events_file(self) -> Path:
        return self.path / _EVENTS

    def events_size(self) -> int:
        """Bytes of events.jsonl, 0 if it does not exist."""
        try:
            return self.events_file.stat().st_size
        except FileNotFoundError:
            return 0

    def create(self, job: Job, inputs: Inputs) -> Job:
        """Copies the request's files, since the originals may change while the job waits. Returns the job with the
        copies' paths. Raises OSError.

        Only this service's user can read the folder, whatever the umask: the files may be private ones of the caller.
        """
        self.path.mkdir(parents=True, mode=0o700)
        request = job.request
        copies = {kind: self._copy(kind, source, getattr(request, kind).name) for kind, source in inputs.items()}
        created = replace(job, request=replace(request, **copies))  # type: ignore[arg-type]  # paths, by their names
        self.write(created)
        return created

    def write(self, job: Job) -> None:
        unfinished = self.path / f".{_JOB}.unfinished"
        with unfinished.open("w", encoding="utf-8") as file:
            json.dump(asdict(job), file, default=_to_json, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self.path / _JOB)

    def read(self) -> Job:
        """Raises OSError, or ValueError if the file does not contain a job."""
        try:
            values = json.loads((self.path / _JOB).read_text("utf-8"))
            request = values.pop("request")
            paths = {key: Path(request[key]) if request[key] else None for key in ("data", "heldout", "system")}
            return Job(**{**values, "state": JobState(values["state"]), "request": JobRequest(**{**request, **paths})})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.path / _JOB} is not a job: {error}") from error

    def append(self, event: Mapping[str, Any]) -> None:
        """Appends the event on a line of its own, even if a killed trainer has left an incomplete line."""
        with self.events_file.open("ab+") as file:
            separator = "" if _ends_with_newline(file) else "\n"
            file.write(f"{separator}{json.dumps(event, ensure_ascii=False)}\n".encode())

    def events(self, offset: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """The complete events from a byte offset on, each with the offset after it."""
        try:
            with self.events_file.open("rb") as file:
                file.seek(offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        return
                    offset += len(line)
                    event = _parse_event(line)
                    if event is not None:
                        yield offset, event
        except FileNotFoundError:
            return

    def last(self, kind: str) -> dict[str, Any] | None:
        return next(
            (event for event in reversed([event for _, event in self.events()]) if event["event"] == kind), None
        )

    def remove_incomplete_event(self) -> None:
        try:
            with self.events_file.open("rb+") as file:
                content = file.read()
                file.truncate(content.rfind(b"\n") + 1)
        except FileNotFoundError:
            return

    def remove_checkpoint(self) -> None:
        shutil.rmtree(self.checkpoint, ignore_errors=True)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def _copy(self, kind: str, source: BinaryIO, name: str) -> Path:
        """Keeps the file's name, which appears in the training report."""
        target = self.path / "input" / kind / name
        target.parent.mkdir(parents=True)
        copy_input(source, target)
        return target


def _ends_with_newline(file: BinaryIO) -> bool:
    """True for an empty file."""
    if not file.seek(0, os.SEEK_END):
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _parse_event(line: bytes) -> dict[str, Any] | None:
    """A line that is not an event was printed by a library and becomes a warning. None for an incomplete event or an
    empty line."""
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if isinstance(event, dict) and isinstance(event.get("event"), str):
        return event
    text = line.strip()
    if text.startswith(_EVENT_PREFIX) or _EVENT_PREFIX.startswith(text):
        return None
    return {"event": "warning", "text": line.decode(errors="replace").rstrip()}


def _to_json(value: object) -> str:
    return str(value.value if isinstance(value, JobState) else value)
