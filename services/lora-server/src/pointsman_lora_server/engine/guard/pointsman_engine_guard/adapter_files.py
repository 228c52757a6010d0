"""The files of adapters on the engine's machine: receives them from the lora-server, and compares them with a version's
digest.
"""

import asyncio
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any, BinaryIO

from .adapter_table import NoFolder, Refused

STORE_VARIABLE = "POINTSMAN_ENGINE_STORE"
"""The environment variable that names the folder for received adapters. By default, a temporary folder of this process
is used."""
HASHED_FILES = ("adapter_config.json", "adapter_model.safetensors")
"""The files of an adapter, in the order in which the lora-server's store hashes them."""
MAX_FILE_BYTES = 16 << 30
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.@-]{0,199}")
_CHUNK_BYTES = 1 << 20

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class OtherContent(Exception):
    """The adapter's files on the engine's machine have another digest than the version; the message says what to
    check.
    """


class ReceivedAdapters:
    """Stores the adapters that lora-servers send, each in a folder with the adapter's name, until they are removed."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._named = environment.get(STORE_VARIABLE, "")
        self._root: Path | None = None

    def folder_of(self, name: str) -> str:
        """Returns the folder of the received adapter `name`. Raises NoFolder if not all its files were received."""
        folder = self._folder(name)
        if not all((folder / file).is_file() for file in HASHED_FILES):
            raise NoFolder(f"{name} was not sent to the engine")
        return str(folder)

    async def receive(self, name: str, file: str, receive: Receive) -> None:
        """Writes the body of a request to the file `file` of the adapter `name`. A file that was received before is
        replaced when the new one is complete.

        Raises Refused if `file` is not one of `HASHED_FILES`, the body has more than `MAX_FILE_BYTES`, or the client
        disconnects, and OSError if the disk fails.
        """
        if file not in HASHED_FILES:
            raise Refused(f"the files of an adapter are {' and '.join(HASHED_FILES)}")
        folder = self._folder(name)
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        descriptor, unfinished = tempfile.mkstemp(dir=folder)
        try:
            with os.fdopen(descriptor, "wb") as opened:
                await _write_body(receive, opened)
            os.replace(unfinished, folder / file)  # a rename, which does not wait
        except BaseException:
            os.unlink(unfinished)
            raise

    def discard(self, name: str) -> None:
        """Deletes the files of the received adapter `name`; does nothing if there are none."""
        if self._root is not None and _NAME.fullmatch(name):
            shutil.rmtree(self._root / name, ignore_errors=True)

    def _folder(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise Refused(f"{name[:200]!r} is no name of an adapter")
        if self._root is None:
            self._root = Path(self._named or tempfile.mkdtemp(prefix="pointsman-adapters-"))
        return self._root / name


async def check_content(folder: str, sha256: str) -> None:
    """Checks that the adapter's files in `folder` have the digest of its version.

    `sha256` is the version's SHA-256 in hexadecimal, or the beginning of it. Raises NoFolder if a file is missing, and
    OtherContent if the files have another digest.
    """
    try:
        found = await asyncio.to_thread(content_hash, Path(folder))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NoFolder(f"the engine finds no folder {folder} with {' and '.join(HASHED_FILES)}") from error
    if not found.startswith(sha256):
        raise OtherContent(
            f"at the engine, {folder} has the digest {found[:12]}, and the version has {sha256[:12]}: is another store "
            "mounted there, or is it not copied completely?"
        )


def content_hash(folder: Path) -> str:
    """Returns the SHA-256 of an adapter's files, computed as by the lora-server's `store.layout.content_hash`. Raises
    OSError if a file cannot be read.
    """
    digest = hashlib.sha256()
    for name in HASHED_FILES:
        with (folder / name).open("rb") as file:
            digest.update(f"{name}\n{os.fstat(file.fileno()).st_size}\n".encode())
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


async def _write_body(receive: Receive, file: BinaryIO) -> None:
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused("the client disconnected")
        body: bytes = message.get("body", b"")
        size += len(body)
        if size > MAX_FILE_BYTES:
            raise Refused(f"the file has more than {MAX_FILE_BYTES} bytes")
        await asyncio.to_thread(file.write, body)
        if not message.get("more_body"):
            return
