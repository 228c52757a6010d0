"""The folder of a training job, and the input files that are copied into it. A client names the input files by their
paths on this machine.

job.json is replaced atomically. The trainer and this server both append whole lines to events.jsonl; if the trainer was
killed and left an incomplete line, the line is removed.

An input file is only read if it is a regular file below one of the folders that the operator has named. Its path is
resolved first, then opened component by component without following links. So opening fails if a component was replaced
by a link meanwhile. The error is the same for a file that is missing, forbidden, not regular or in another folder, so
that clients cannot find out which paths exist.
"""

import codecs
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from pointsman_servicekit.errors import InvalidArgument

from pointsman_lora_server.jobs.job import Job, JobRequest, JobState

MAX_FILE_BYTES = 1 << 30
"""The largest size of an input file, in bytes."""
MAX_LINE_BYTES = 16 << 20
"""At most this many bytes of a file are read to find its first row."""
MAX_SYSTEM_BYTES = 1 << 20
"""The largest size of the file with a system message, in bytes."""
COPY_BYTES = 1 << 20

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""Flags for opening input files. O_NONBLOCK is set because opening a named pipe would otherwise wait for its writer."""

Inputs = Mapping[str, BinaryIO]
"""Field of the request ("data", "heldout" or "system") -> the opened input file."""

_EVENT_PREFIX = b'{"event": '

_JOB, _EVENTS = "job.json", "events.jsonl"


def open_inputs(request: JobRequest, data_roots: Sequence[Path], stack: ExitStack) -> Inputs:
    """Opens the input files of a request, and checks the beginning of each. `stack` closes them.

    Raises InvalidArgument ("bad_path") for a path that is relative or not below one of `data_roots`, and for a file
    that cannot be read, is not a regular file or has more than `MAX_FILE_BYTES`. Raises InvalidArgument ("bad_data") if
    the first row of `data` or `heldout` is not a JSON object, or `system` is not UTF-8 text of at most
    `MAX_SYSTEM_BYTES`.
    """
    paths = {"data": request.data, "heldout": request.heldout, "system": request.system}
    inputs = {
        param: stack.enter_context(_open(path, param, data_roots)) for param, path in paths.items() if path is not None
    }
    for param, file in inputs.items():
        if param == "system":
            _check_text(file, param)
        else:
            _check_first_row(file, param)
        file.seek(0)
    return inputs


def copy_input(source: BinaryIO, target: Path) -> None:
    """Copies an opened file, from its current position on, to `target`, which must not exist. Only this service's user
    can read the copy.

    Raises OSError if `target` cannot be written or would have more than `MAX_FILE_BYTES`; it may be left incomplete
    then.
    """
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as copy:
        while chunk := source.read(COPY_BYTES):
            if copy.tell() + len(chunk) > MAX_FILE_BYTES:
                raise OSError("the file grew while it was copied")
            copy.write(chunk)


def _open(path: Path, param: str, data_roots: Sequence[Path]) -> BinaryIO:
    if not data_roots:
        raise InvalidArgument(
            "this lora-server reads no training data for its clients: POINTSMAN_LORA_DATA_ROOTS is empty",
            code="bad_path",
            param=param,
        )
    try:
        if not path.is_absolute():
            raise OSError("the path is relative")
        resolved = path.resolve(strict=True)
        root = next(root for root in (root.resolve() for root in data_roots) if resolved.is_relative_to(root))
        descriptor = _open_beneath(root, resolved.relative_to(root).parts)
    except (OSError, RuntimeError, ValueError, StopIteration):  # a loop of links is a RuntimeError, a NUL a ValueError
        raise InvalidArgument(
            f"'{param}' is not a readable regular file of at most {MAX_FILE_BYTES >> 20} MiB in the folders that "
            "POINTSMAN_LORA_DATA_ROOTS names; give its absolute path on the lora-server's machine",
            code="bad_path",
            param=param,
        ) from None
    return os.fdopen(descriptor, "rb")


def _open_beneath(root: Path, parts: Sequence[str]) -> int:
    """Opens the file whose path below `root` has the components `parts`; returns its file descriptor.

    Raises OSError if the file or a folder in its path is a link or cannot be opened, or the file is not regular or has
    more than `MAX_FILE_BYTES`.
    """
    folder = os.open(root, _FOLDER)
    try:
        for part in parts[:-1]:
            below = os.open(part, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = below
        file = os.open(parts[-1] if parts else ".", _FILE, dir_fd=folder)
    finally:
        os.close(folder)
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
        os.close(file)
        raise OSError("not a regular file, or too large")
    return file


def _check_first_row(file: BinaryIO, param: str) -> None:
    """Raises InvalidArgument unless the first line that is not blank is a JSON object.

    Reads at most `MAX_LINE_BYTES`. The message does not show the line.
    """
    left = MAX_LINE_BYTES
    line = b""
    while left > 0 and not line.strip():
        line = file.readline(left)
        if not line:
            break
        left -= len(line)
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise InvalidArgument(f"the first line of '{param}' is not a JSON object", code="bad_data", param=param)


def _check_text(file: BinaryIO, param: str) -> None:
    """Raises InvalidArgument unless the file has at most `MAX_SYSTEM_BYTES` and its first line is UTF-8 without NUL."""
    line = file.readline(MAX_SYSTEM_BYTES)
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(line, final=line.endswith(b"\n"))
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text or os.fstat(file.fileno()).st_size > MAX_SYSTEM_BYTES:
        raise InvalidArgument(
            f"'{param}' is not UTF-8 text of at most {MAX_SYSTEM_BYTES >> 20} MiB", code="bad_data", param=param
        )


@dataclass(frozen=True, slots=True)
class JobFolder:
    path: Path

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint"

    @property
    def out(self) -> Path:
        """Returns the folder into which the trainer writes the adapter."""
        return self.path / "out"

    @property
    def events_file(self) -> Path:
        return self.path / _EVENTS

    def events_size(self) -> int:
        """Returns the size of events.jsonl in bytes, 0 if it does not exist."""
        try:
            return self.events_file.stat().st_size
        except FileNotFoundError:
            return 0

    def create(self, job: Job, inputs: Inputs) -> Job:
        """Creates the folder with job.json and copies of the input files. They are copied because the originals may
        change while the job waits.

        Returns the job with the paths of the copies. Only this service's user can read the folder. Raises OSError if
        the folder exists or cannot be written.
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
        """Reads job.json. Raises OSError if it cannot be read, and ValueError if it does not contain a job."""
        try:
            values = json.loads((self.path / _JOB).read_text("utf-8"))
            request = values.pop("request")
            paths = {key: Path(request[key]) if request[key] else None for key in ("data", "heldout", "system")}
            return Job(**{**values, "state": JobState(values["state"]), "request": JobRequest(**{**request, **paths})})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.path / _JOB} is not a job: {error}") from error

    def append(self, event: Mapping[str, Any]) -> None:
        """Appends an event to events.jsonl on its own line, even if a killed trainer left an incomplete line."""
        with self.events_file.open("ab+") as file:
            separator = "" if _ends_with_newline(file) else "\n"
            file.write(f"{separator}{json.dumps(event, ensure_ascii=False)}\n".encode())

    def events(self, offset: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields (byte offset of the event's end, event) for each complete event in events.jsonl from byte `offset` on.

        Yields nothing if the file does not exist. A line that is not an event, because a library has printed it, is
        yielded as {"event": "warning", "text": LINE}.
        """
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
        """Copies an input file into the job's folder. The copy keeps the file's original `name`, because the training
        report states it.
        """
        target = self.path / "input" / kind / name
        target.parent.mkdir(parents=True)
        copy_input(source, target)
        return target


def _ends_with_newline(file: BinaryIO) -> bool:
    """Returns whether a file ends with a line feed; true if it is empty."""
    if not file.seek(0, os.SEEK_END):
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _parse_event(line: bytes) -> dict[str, Any] | None:
    """Parses a line of events.jsonl. Returns {"event": "warning", "text": LINE} if it is the output of a library, and
    None if it is an incomplete event or blank.
    """
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
