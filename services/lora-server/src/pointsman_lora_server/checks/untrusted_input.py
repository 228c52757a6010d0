"""Reads files and JSON from an untrusted folder. Links and pickles are rejected, sizes are limited, and JSON must be
unambiguous.
"""

import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pointsman_servicekit.errors import InvalidArgument, NotFound

CONFIG, WEIGHTS, REPORT = "adapter_config.json", "adapter_model.safetensors", "training.json"
MAX_TEXT_BYTES = 1 << 20
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
CHUNK_BYTES = 1 << 20
MAX_JSON_DEPTH = 64


class SourceFolder:
    """An open folder with untrusted files. Links are not followed, and only regular files are opened."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self._folder = folder
        self._descriptor = descriptor

    def read(self, name: str, code: str) -> bytes:
        """Returns the content of the file `name`, of at most `MAX_TEXT_BYTES`.

        Raises InvalidArgument with the code `code` if the file is missing or larger, "unreadable" if the lora-server
        lacks the permission, or "unsafe_file" if the file is a link or not regular.
        """
        with self.open(name, code) as file:
            raw = file.read(MAX_TEXT_BYTES + 1)
        if len(raw) > MAX_TEXT_BYTES:
            raise _rejected(f"{name} is larger than {MAX_TEXT_BYTES} bytes", code)
        return raw

    def read_if_exists(self, name: str, code: str) -> bytes | None:
        return self.read(name, code) if name in os.listdir(self._descriptor) else None

    @contextmanager
    def open(self, name: str, code: str) -> Iterator[BinaryIO]:
        # O_NONBLOCK: opening a pipe without a writer would block for ever.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, dir_fd=self._descriptor)
        except FileNotFoundError:
            raise _rejected(
                f"{self._folder} holds no {name}; name the folder that `pointsman train` or PEFT has saved", code
            ) from None
        except OSError as error:
            raise _unsafe(self._folder / name, error) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise _rejected(f"{name} is not a regular file; put the file itself there", "unsafe_file")
        with os.fdopen(descriptor, "rb") as file:
            yield file

    def check(self) -> None:
        """Raises InvalidArgument ("unsafe_file") if a file in the folder may be a pickle, according to its suffix
        (`PICKLE_SUFFIXES`). Subfolders are not searched.
        """
        for name in sorted(os.listdir(self._descriptor)):
            if Path(name).suffix.lower() in PICKLE_SUFFIXES:
                raise _rejected(f"{name} may be a pickle, which can run code; save as safetensors", "unsafe_file")


@contextmanager
def open_folder(folder: Path) -> Iterator[SourceFolder]:
    """Returns a context manager that opens an untrusted folder for reading during its block.

    Raises NotFound if the folder does not exist. Raises InvalidArgument with the code "path_outside" if the path is not
    absolute or contains "..", "unreadable" if the lora-server lacks the permission, or "unsafe_file" if `folder` is a
    symbolic link (its target could change after the check), is not a folder, or contains a file that may be a pickle.
    """
    if not folder.is_absolute() or ".." in folder.parts or "\0" in str(folder):
        raise InvalidArgument(f"'{folder}' must be an absolute path without '..'", code="path_outside", param="folder")
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(
            f"there is no folder {folder} on the lora-server's machine", code="unknown_folder", param="folder"
        ) from None
    except (OSError, ValueError) as error:
        raise _unsafe(folder, error) from error
    try:
        source = SourceFolder(folder, descriptor)
        source.check()
        yield source
    finally:
        os.close(descriptor)


def parse_object(raw: bytes) -> dict[str, Any]:
    """Parses a JSON object strictly, so that no other parser can read it differently.

    Raises ValueError with the reason if `raw` is not a JSON object or not UTF-8, has a repeated key, NaN, infinity or
    half a surrogate pair, or is nested more deeply than `MAX_JSON_DEPTH`.
    """
    try:
        values = json.loads(raw.decode("utf-8"), parse_constant=_reject_constant, object_pairs_hook=_unique_keys)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")
    if _depth(values) > MAX_JSON_DEPTH:
        raise ValueError("it is nested too deeply")
    canonical_json(values)  # raises for half a surrogate pair, such as "\ud800", which is valid JSON but not text
    return values


def canonical_json(values: Mapping[str, Any]) -> bytes:
    """Returns a JSON object as UTF-8. Objects with equal content give equal bytes.

    Raises ValueError if the object has NaN, infinity, or half a surrogate pair in a text.
    """
    return (json.dumps(values, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            child
            for each in level
            for child in (each.values() if isinstance(each, dict) else each if isinstance(each, list) else ())
        ]
    return depth


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} appears twice")
        result[key] = value
    return result


def _unsafe(path: Path, error: Exception) -> InvalidArgument:
    if isinstance(error, PermissionError):
        return _rejected(f"{path} cannot be read by the lora-server; give it the permission", "unreadable")
    return _rejected(
        f"{path} is a symbolic link or cannot be read ({error}); put the files themselves there",
        "unsafe_file",
    )


def _rejected(message: str, code: str) -> InvalidArgument:
    return InvalidArgument(message, code=code, param="folder")
