"""`pointsman backup`: keeps copies of a folder in object storage, and fetches them back.

Each copy is a folder below the URL, named by its time. The file `SHA256SUMS`, in the format of `sha256sum`, is written
last: a copy without this file is incomplete and is never fetched. The client library reads the address and the keys of
the storage service from the environment (for S3: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...).
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pointsman_cli.errors import CommandError, UsageError

if TYPE_CHECKING:
    import fsspec

SUMS = "SHA256SUMS"
DEFAULT_KEEP = 14
_TIME = "%Y-%m-%dT%H-%M-%SZ"
_NAME = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ")

UrlArgument = Annotated[str, typer.Argument(metavar="URL", help="Where the copies are, such as s3://BUCKET/FOLDER.")]


def build_app() -> typer.Typer:
    app = typer.Typer(help="Keep copies of a folder in object storage.", no_args_is_help=True, rich_markup_mode=None)
    app.command()(upload)
    app.command()(download)
    return app


def upload(
    folder: Annotated[Path, typer.Argument(help="The folder to copy.", exists=True, file_okay=False)],
    url: UrlArgument,
    keep: Annotated[int, typer.Option(min=1, help="Complete copies to keep; older ones are deleted.")] = DEFAULT_KEEP,
) -> None:
    """Copy a folder to object storage as a new copy, named by the present time, and delete old copies."""
    store = open_store(url)
    with storage_errors(url):
        name = store.add(folder, datetime.now(UTC))
        deleted = store.keep_newest(keep)
    typer.echo(f"{store.url}/{name} is complete; {len(deleted)} old copies deleted")


def download(
    url: UrlArgument,
    folder: Annotated[Path, typer.Argument(help="The folder to write; must be empty.")],
    at: Annotated[str, typer.Option(metavar="NAME", help="The copy to fetch; default: the newest complete one.")] = "",
) -> None:
    """Fetch a copy of a folder from object storage and check the SHA-256 checksum of each file."""
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty; name another folder")
    store = open_store(url)
    with storage_errors(url):
        names = store.complete()
        if not names or (at and at not in names):
            raise CommandError(f"{url} has no complete copy {at or 'yet'}; it has {', '.join(names) or 'none'}")
        store.fetch(at or names[-1], folder)
    typer.echo(f"{folder} holds the copy of {at or names[-1]}")


@dataclass(frozen=True, slots=True)
class CopyStore:
    """The copies of a folder at one URL in object storage; each has the time at which it was made as its name.

    A copy is complete once it has its SHA256SUMS. Methods also raise the errors of the storage's client library, which
    `storage_errors` converts.
    """

    url: str
    """The URL without a slash at its end."""
    files: "fsspec.AbstractFileSystem"
    """The client of the storage; it takes paths inside the storage."""
    root: str
    """The path of `url` inside the storage, without a slash at its end; each copy is a folder below this path."""

    def complete(self) -> list[str]:
        """Returns the names of the complete copies, oldest first."""
        return [name for name in self._names() if self.files.exists(f"{self.root}/{name}/{SUMS}")]

    def add(self, folder: Path, time: datetime) -> str:
        """Makes a copy of all files in a folder, including those in folders inside; returns the copy's name.

        The name is `time`, which must be in UTC, as text. Raises UsageError if there are no files.
        """
        found = sorted(file for file in folder.rglob("*") if file.is_file())
        if not found:
            raise UsageError(f"{folder} has no files, so there is nothing to copy")
        name, sums = time.strftime(_TIME), ""
        for file in found:
            relative = file.relative_to(folder).as_posix()
            self.files.put_file(str(file), f"{self.root}/{name}/{relative}")
            sums += f"{_sha256(file)}  {relative}\n"
        self.files.pipe_file(f"{self.root}/{name}/{SUMS}", sums.encode())
        return name

    def keep_newest(self, count: int) -> list[str]:
        """Deletes all copies, complete or not, that are older than the newest `count` complete copies.

        Returns the names of the deleted copies, oldest first. Deletes nothing if no copy is complete.
        """
        kept = self.complete()[-count:]
        old = [name for name in self._names() if kept and name < kept[0]]
        for name in old:
            self.files.rm(f"{self.root}/{name}", recursive=True)
        return old

    def fetch(self, name: str, folder: Path) -> None:
        """Fetches the complete copy `name` into `folder`, with its SHA256SUMS, and verifies each file's checksum.

        Raises CommandError if a checksum is wrong, or a file's path leads out of the folder; the files that were
        fetched until then stay there.
        """
        sums = self.files.cat_file(f"{self.root}/{name}/{SUMS}").decode()
        for line in sums.splitlines():
            digest, _, relative = line.partition("  ")
            target = (folder / relative).resolve()
            if not target.is_relative_to(folder.resolve()):
                raise CommandError(f"{SUMS} of {self.url}/{name} names a file outside the copy: {relative}")
            target.parent.mkdir(parents=True, exist_ok=True)
            self.files.get_file(f"{self.root}/{name}/{relative}", str(target))
            if _sha256(target) != digest:
                raise CommandError(f"{relative} of {self.url}/{name} is damaged; fetch another copy with --at")
        (folder / SUMS).write_text(sums)

    def _names(self) -> list[str]:
        try:
            entries: list[Any] = self.files.ls(self.root, detail=False)
        except FileNotFoundError:
            return []
        names = (str(entry).rstrip("/").rpartition("/")[2] for entry in entries)
        return sorted(name for name in names if _NAME.fullmatch(name))


def open_store(url: str) -> CopyStore:
    """Opens the object storage at `url`, such as "s3://BUCKET/FOLDER"; a `url` without a scheme is a local folder.

    Raises CommandError if the client library for the scheme of `url` is not installed, UsageError if the scheme is
    unknown.
    """
    try:
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        files, root = url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        raise CommandError(
            f"{url} needs a package that is not installed ({error}); for s3:// run: pip install 'pointsman[s3]'"
        ) from error
    except ValueError as error:
        raise UsageError(f"'{url}' is not a URL of a known storage, such as s3://BUCKET/FOLDER: {error}") from error
    if isinstance(files, LocalFileSystem):
        files.auto_mkdir = True  # a bucket has no folders
    return CopyStore(url.rstrip("/"), files, root.rstrip("/"))


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Converts any error in the `with` block to a CommandError that names `url`; a CommandError is raised unchanged.

    The client library of each kind of object storage has errors of its own.
    """
    try:
        yield
    except CommandError:
        raise
    except Exception as error:
        raise CommandError(f"{url}: {type(error).__name__}: {error}") from error


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
