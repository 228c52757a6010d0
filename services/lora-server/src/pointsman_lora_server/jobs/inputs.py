"""Opens the input files of a training job, which a client names by their paths on this machine.

A file is read only if it is a regular file below one of the folders that the operator has named. It is opened once,
component by component without following links, after all links were resolved: a link that is put in place meanwhile
makes it fail. The error is the same for a file that is missing, forbidden, of another kind or elsewhere, so that
clients cannot find out which paths exist.
"""

import codecs
import json
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from pointsman_servicekit.errors import InvalidArgument

from pointsman_lora_server.jobs.job import JobRequest

MAX_FILE_BYTES = 1 << 30
"""Of one input file, which is copied."""
MAX_LINE_BYTES = 16 << 20
"""Of the first line of a file of rows."""
MAX_SYSTEM_BYTES = 1 << 20
"""Of the file with the system message."""
COPY_BYTES = 1 << 20

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""O_NONBLOCK: to open a named pipe would wait for its writer."""

Inputs = Mapping[str, BinaryIO]
"""By their names in the request: "data", "heldout", "system"."""


def open_inputs(request: JobRequest, data_roots: Sequence[Path], stack: ExitStack) -> Inputs:
    """Opens the request's files, which `stack` closes, and checks the beginning of each. Raises InvalidArgument."""
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
    """Copies an opened file so that only this service's user can read the copy. Raises OSError."""
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
            raise OSError("a relative path")
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
    """Raises OSError for a link, for what is not a regular file, and for a file that is too large."""
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
    """Raises InvalidArgument unless the first line that is not blank is a JSON object; says nothing of its content."""
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
    """Raises InvalidArgument unless the first line is UTF-8 text without control characters."""
    line = file.readline(MAX_SYSTEM_BYTES)
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(line, final=line.endswith(b"\n"))
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text or os.fstat(file.fileno()).st_size > MAX_SYSTEM_BYTES:
        raise InvalidArgument(
            f"'{param}' is not UTF-8 text of at most {MAX_SYSTEM_BYTES >> 20} MiB", code="bad_data", param=param
        )
