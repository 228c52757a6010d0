"""Stores adapter versions at an fsspec URL (S3 or any other), with a local cache of the versions that the engine
reads.
"""

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from weakref import WeakValueDictionary

import fsspec
from pointsman_servicekit.errors import FailedPrecondition, NotFound

from pointsman_lora_server.checks.attachments import SAMPLES
from pointsman_lora_server.domain import AdapterVersion
from pointsman_lora_server.store.folder_backend import FolderBackend
from pointsman_lora_server.store.layout import (
    HASHED,
    MANIFEST,
    NOT_HASHED,
    content_hash,
    folder_names,
    scratch_folder,
    translating_service_errors,
)

log = logging.getLogger(__name__)

MIN_CACHED_SECONDS = 900.0
"""A version is not removed from the cache earlier than this after its last use, because the engine or a smoke test may
be reading it."""


class RemoteBackend:
    """Stores adapter versions at an fsspec URL; implements `StoreBackend`.

    A version's manifest is written last and removed first; a version without a manifest does not exist. Concurrent
    uploads of one version are harmless, since they write the same bytes. The client library reads the service's address
    and keys from the environment (for S3: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...).
    """

    def __init__(self, url: str, cache_folder: Path, max_cache_bytes: int) -> None:
        """`url` is the location of the store. Versions are cached in `cache_folder`, up to about `max_cache_bytes`.

        Raises ValueError if the URL is of an unknown kind, or the package for it is not installed.
        """
        self._url = url.rstrip("/")
        try:
            # Listings must not be cached: other processes write there, too.
            self._files, self._root = fsspec.core.url_to_fs(self._url, use_listings_cache=False)
        except ImportError as error:
            raise ValueError(
                f"the store {url} needs a package that is not installed ({error}); "
                "install pointsman-lora-server[s3], for gs:// [gcs], for az:// and abfs:// [azure]"
            ) from error
        self._cache = FolderBackend(cache_folder)
        self._max_cache_bytes = max_cache_bytes
        self._fetch_locks: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
        self._lock = threading.Lock()

    def scratch(self) -> AbstractContextManager[Path]:
        return self._cache.scratch()

    def put(self, copy: Path, version: AdapterVersion) -> None:
        with translating_service_errors(self._url):
            is_stored = self._exists(version) and self._is_intact(version)
            if not is_stored:
                with suppress(FileNotFoundError):
                    self._files.rm_file(self._path(version, MANIFEST))
            for name in NOT_HASHED if is_stored else (*HASHED, *NOT_HASHED):
                if (copy / name).exists():
                    self._upload(copy / name, version, name)
            if not is_stored:
                self._upload(copy / MANIFEST, version, MANIFEST)
        self._cache.put(copy, version)
        self._shrink_cache(version)

    def fetch(self, version: AdapterVersion) -> Path:
        """Returns the version's folder in the local cache; downloads the version first if it is missing there or was
        changed.

        Concurrent calls share one download. Raises NotFound if the version is not stored, FailedPrecondition if the
        stored files were changed, Unavailable if the service cannot be used, and ResourceExhausted if the disk is full.
        """
        with self._lock:
            # The entry disappears with the last thread that holds the lock object.
            lock = self._fetch_locks.setdefault(version.version, threading.Lock())
        with lock:
            try:
                folder = self._cache.fetch(version)
            except (NotFound, FailedPrecondition):
                folder = self._download(version)
            _mark_used(folder)
        return folder

    def samples(self, version: AdapterVersion) -> bytes:
        """Returns the content of the version's samples.jsonl; empty if there is none.

        The file is read from the service, since it may have been replaced after the weights were cached. Raises
        NotFound if the version is not stored, and Unavailable if the service cannot be used.
        """
        with translating_service_errors(self._url):
            if not self._exists(version):
                raise self._unknown(version)
            with suppress(FileNotFoundError):
                samples: bytes = self._files.cat_file(self._path(version, SAMPLES))
                return samples
        return b""

    def delete(self, version: AdapterVersion) -> None:
        with translating_service_errors(self._url):
            for name in (MANIFEST, *HASHED, *NOT_HASHED):
                with suppress(FileNotFoundError):
                    self._files.rm_file(self._path(version, name))
            self._remove_empty_folders(version)
        self._cache.delete(version)

    def _download(self, version: AdapterVersion) -> Path:
        with translating_service_errors(self._url), self.scratch() as scratch:
            if not self._exists(version):
                raise self._unknown(version)
            copy = scratch / "adapter"
            copy.mkdir()
            try:
                digest = self._copy_to(copy, version)
            except FileNotFoundError as error:
                raise self._damaged(version) from error
            if digest != version.sha256:
                raise self._damaged(version)
            self._cache.put(copy, version)
        log.info("%s was downloaded from %s", version.version, self._url)
        self._shrink_cache(version)
        return self._cache.fetch(version)

    def _copy_to(self, folder: Path, version: AdapterVersion) -> str:
        """Downloads the version's files, without the optional ones, into `folder`; returns their content hash.

        Raises FileNotFoundError if a file is missing, and the errors of the client library.
        """
        for name in (*HASHED, MANIFEST):
            self._files.get_file(self._path(version, name), str(folder / name))
        return content_hash(folder)

    def _shrink_cache(self, version: AdapterVersion) -> None:
        """Removes from the local cache the versions that `_surplus` returns, but never `version`."""
        for name, digits in _surplus(self._cache.root, self._max_cache_bytes, keep=folder_names(version)):
            log.info("%s@%s is removed from the cache %s", name, digits, self._cache.root)
            _remove(self._cache.root, name, digits)

    def _exists(self, version: AdapterVersion) -> bool:
        try:
            self._files.info(self._path(version, MANIFEST))
        except FileNotFoundError:
            return False
        return True

    def _is_intact(self, version: AdapterVersion) -> bool:
        """Downloads the stored files, and returns whether they have the hash of the version.

        So `put` can repair a damaged version when it is registered again.
        """
        with self.scratch() as scratch:
            try:
                return self._copy_to(scratch, version) == version.sha256
            except FileNotFoundError:
                return False

    def _upload(self, file: Path, version: AdapterVersion, name: str) -> None:
        self._files.makedirs(self._path(version), exist_ok=True)
        self._files.put_file(str(file), self._path(version, name))

    def _remove_empty_folders(self, version: AdapterVersion) -> None:
        """Removes the version's empty folders, if the service is a file system; an object store has no folders."""
        for path in (self._path(version), f"{self._root}/{version.name}"):
            with suppress(OSError, NotImplementedError):
                if not self._files.ls(path, detail=False):
                    self._files.rmdir(path)

    def _path(self, version: AdapterVersion, *name: str) -> str:
        return "/".join((self._root, *folder_names(version), *name))

    def _unknown(self, version: AdapterVersion) -> NotFound:
        return NotFound(f"{version.version} is not in the store {self._url}; register it", code="unknown_version")

    def _damaged(self, version: AdapterVersion) -> FailedPrecondition:
        return FailedPrecondition(
            f"{version.version} was changed in the store {self._url} since it was put there; register it again",
            code="hash_mismatch",
        )


def _mark_used(folder: Path) -> None:
    """Sets the folder's mtime to now; the mtime is the time of the cached version's last use."""
    with suppress(OSError):
        os.utime(folder)


def _surplus(root: Path, max_bytes: int, keep: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """Yields (name, digits), the folder names of the cached versions to remove so that the others fit into `max_bytes`.

    The least recently used version comes first. `keep`, and versions that were used in the last MIN_CACHED_SECONDS, are
    not yielded, even if the cache stays too large.
    """
    cached = []
    for manifest in root.glob(f"[!.]*/*/{MANIFEST}"):
        folder = manifest.parent
        with suppress(OSError):
            size = sum(file.stat().st_size for file in folder.iterdir())
            cached.append((folder.stat().st_mtime, size, (folder.parent.name, folder.name)))
    total = sum(size for _, size, _ in cached)
    for used_at, size, names in sorted(cached):
        if total <= max_bytes or time.time() - used_at < MIN_CACHED_SECONDS:
            return
        if names != keep:
            total -= size
            yield names


def _remove(root: Path, name: str, digits: str) -> None:
    with suppress(OSError), scratch_folder(root) as scratch:
        (root / name / digits).rename(scratch / "removed")
        shutil.rmtree(scratch / "removed", ignore_errors=True)
        (root / name).rmdir()
