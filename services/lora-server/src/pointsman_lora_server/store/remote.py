"""Versions behind an fsspec URL (S3-compatible, or any other), with a folder here for those that the engine reads."""

import logging
import threading
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from weakref import WeakValueDictionary

import fsspec
from pointsman_servicekit.errors import FailedPrecondition, NotFound

from pointsman_lora_server.checks.samples import SAMPLES
from pointsman_lora_server.domain import AdapterVersion
from pointsman_lora_server.store import cache
from pointsman_lora_server.store.content import BESIDE, HASHED, MANIFEST, content_hash, place
from pointsman_lora_server.store.failures import telling_of_service
from pointsman_lora_server.store.folder import FolderBackend

log = logging.getLogger(__name__)


class RemoteBackend:
    """The manifest is written last and removed first: a version without it does not exist.

    Two that upload the same version write the same bytes. Addresses and keys of a service are read by its own library
    from the environment (for S3: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...).
    """

    def __init__(self, url: str, kept_here: Path, most_bytes: int) -> None:
        """`kept_here` holds up to about `most_bytes` of what was fetched. Raises ValueError for an unknown URL."""
        self._url = url.rstrip("/")
        try:
            # Listings must not be remembered: others write there too.
            self._files, self._root = fsspec.core.url_to_fs(self._url, use_listings_cache=False)
        except ImportError as error:
            raise ValueError(
                f"the store {url} needs a package that is not installed ({error}); "
                "for s3:// install pointsman-lora-server[s3]"
            ) from error
        self._here = FolderBackend(kept_here)
        self._most_bytes = most_bytes
        self._fetching: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
        self._lock = threading.Lock()

    def scratch(self) -> AbstractContextManager[Path]:
        return self._here.scratch()

    def put(self, copy: Path, version: AdapterVersion) -> None:
        with telling_of_service(self._url):
            known = self._is_there(version) and self._is_whole(version)
            if not known:
                with suppress(FileNotFoundError):
                    self._files.rm_file(self._path(version, MANIFEST))
            for name in BESIDE if known else (*HASHED, *BESIDE):
                if (copy / name).exists():
                    self._upload(copy / name, version, name)
            if not known:
                self._upload(copy / MANIFEST, version, MANIFEST)
        self._here.put(copy, version)
        self._make_room(version)

    def fetch(self, version: AdapterVersion) -> Path:
        """A folder here, its hash checked. Raises NotFound, FailedPrecondition or Unavailable.

        Many calls for one version at once fetch it once.
        """
        with self._lock:
            lock = self._fetching.setdefault(version.version, threading.Lock())  # goes with the last who holds it
        with lock:
            try:
                folder = self._here.fetch(version)
            except (NotFound, FailedPrecondition):
                folder = self._download(version)
            cache.touch(folder)
        return folder

    def samples(self, version: AdapterVersion) -> bytes:
        """From where they were put: they may have been replaced since the weights were fetched."""
        with telling_of_service(self._url):
            if not self._is_there(version):
                raise self._unknown(version)
            with suppress(FileNotFoundError):
                found: bytes = self._files.cat_file(self._path(version, SAMPLES))
                return found
        return b""

    def delete(self, version: AdapterVersion) -> None:
        with telling_of_service(self._url):
            for name in (MANIFEST, *HASHED, *BESIDE):
                with suppress(FileNotFoundError):
                    self._files.rm_file(self._path(version, name))
            self._remove_empty_folders(version)
        self._here.delete(version)

    def _download(self, version: AdapterVersion) -> Path:
        with telling_of_service(self._url), self.scratch() as scratch:
            if not self._is_there(version):
                raise self._unknown(version)
            copy = scratch / "adapter"
            copy.mkdir()
            try:
                found = self._copy_to(copy, version)
            except FileNotFoundError as error:
                raise self._damaged(version) from error
            if found != version.sha256:
                raise self._damaged(version)
            self._here.put(copy, version)
        log.info("%s was fetched from %s", version.version, self._url)
        self._make_room(version)
        return self._here.fetch(version)

    def _copy_to(self, folder: Path, version: AdapterVersion) -> str:
        """Returns the hash of what was fetched. Raises FileNotFoundError."""
        for name in (*HASHED, MANIFEST):
            self._files.get_file(self._path(version, name), str(folder / name))
        return content_hash(folder)

    def _make_room(self, version: AdapterVersion) -> None:
        for name, digits in cache.too_many(self._here.root, self._most_bytes, keep=place(version)):
            log.info("%s@%s makes room in %s", name, digits, self._here.root)
            cache.remove(self._here.root, name, digits)

    def _is_there(self, version: AdapterVersion) -> bool:
        try:
            self._files.info(self._path(version, MANIFEST))
        except FileNotFoundError:
            return False
        return True

    def _is_whole(self, version: AdapterVersion) -> bool:
        """By what is fetched from there: registering again mends what was damaged."""
        with self.scratch() as scratch:
            try:
                return self._copy_to(scratch, version) == version.sha256
            except FileNotFoundError:
                return False

    def _upload(self, file: Path, version: AdapterVersion, name: str) -> None:
        self._files.makedirs(self._path(version), exist_ok=True)
        self._files.put_file(str(file), self._path(version, name))

    def _remove_empty_folders(self, version: AdapterVersion) -> None:
        """Of file systems that have any; an object store has none."""
        for path in (self._path(version), f"{self._root}/{version.name}"):
            with suppress(OSError, NotImplementedError):
                if not self._files.ls(path, detail=False):
                    self._files.rmdir(path)

    def _path(self, version: AdapterVersion, *name: str) -> str:
        return "/".join((self._root, *place(version), *name))

    def _unknown(self, version: AdapterVersion) -> NotFound:
        return NotFound(f"{version.version} is not in the store {self._url}; register it", code="unknown_version")

    def _damaged(self, version: AdapterVersion) -> FailedPrecondition:
        return FailedPrecondition(
            f"{version.version} was changed in the store {self._url} since it was put there; register it again",
            code="hash_mismatch",
        )
