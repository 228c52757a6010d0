"""Which files of a folder make the adapter, which must not be there, and how they are read from an untrusted place."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pointsman_servicekit.errors import InvalidArgument, NotFound

CONFIG, WEIGHTS, REPORT = "adapter_config.json", "adapter_model.safetensors", "training.json"
MOST_TEXT_BYTES = 1 << 20
PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
CHUNK = 1 << 20


class SourceFolder:
    """An open folder; each file is opened below it without following a link, and is a plain file once it is open."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self._folder = folder
        self._descriptor = descriptor

    def read(self, name: str, code: str) -> bytes:
        """Of a small file. Raises InvalidArgument: `code` where it is missing or too large, unsafe_file."""
        with self.open(name, code) as file:
            raw = file.read(MOST_TEXT_BYTES + 1)
        if len(raw) > MOST_TEXT_BYTES:
            raise _refused(f"{name} is larger than {MOST_TEXT_BYTES} bytes", code)
        return raw

    def read_if_there(self, name: str, code: str) -> bytes | None:
        return self.read(name, code) if name in os.listdir(self._descriptor) else None

    @contextmanager
    def open(self, name: str, code: str) -> Iterator[BinaryIO]:
        # O_NONBLOCK: a pipe without a writer would make us wait for ever.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, dir_fd=self._descriptor)
        except FileNotFoundError:
            raise _refused(f"{self._folder} holds no {name}", code) from None
        except OSError as error:
            raise _not_plain(self._folder / name, error) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise _refused(f"{name} is no plain file; put the file itself there", "unsafe_file")
        with os.fdopen(descriptor, "rb") as file:
            yield file

    def check(self) -> None:
        """Raises InvalidArgument where a file is there that must not be."""
        for name in sorted(os.listdir(self._descriptor)):
            if Path(name).suffix.lower() in PICKLES:
                raise _refused(f"{name} may be a pickle, which can run code; save as safetensors", "unsafe_file")


@contextmanager
def opening(folder: Path) -> Iterator[SourceFolder]:
    """Raises InvalidArgument (path_outside, unsafe_file) or NotFound unless `folder` is a folder, and no link to one.

    A symbolic link is refused because what it points to can change after the check.
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
        raise _not_plain(folder, error) from error
    try:
        source = SourceFolder(folder, descriptor)
        source.check()
        yield source
    finally:
        os.close(descriptor)


def _not_plain(path: Path, error: Exception) -> InvalidArgument:
    if isinstance(error, PermissionError):
        return _refused(f"{path} cannot be read by the lora-server; give it the right to", "unreadable")
    return _refused(
        f"{path} is a symbolic link or nothing that can be read ({error}); put the files themselves there",
        "unsafe_file",
    )


def _refused(message: str, code: str) -> InvalidArgument:
    return InvalidArgument(message, code=code, param="folder")
