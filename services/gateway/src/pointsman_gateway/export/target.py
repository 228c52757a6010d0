"""The places for Parquet files: a folder, or object storage through the library fsspec."""

import asyncio
import os
from pathlib import Path
from typing import Any, Protocol

import fsspec

from pointsman_gateway.export.record_target import WrongTarget

OBJECT_STORES = ("s3", "gs", "abfs", "abfss", "az", "memory")
"""fsspec's names of object stores. In these stores, a new object appears as a whole, and replaces the one with its
name."""
MAX_PUT_SECONDS = 120.0
"""Seconds after which an upload to object storage is given up; the exporter tries again."""
_PACKAGES = "s3fs for s3://, gcsfs for gs://, adlfs for az:// and abfs://"


class ExportTarget(Protocol):
    """Interface to a place for Parquet files; `FolderTarget` and `ObjectTarget` implement it."""

    def put(self, path: str, content: bytes) -> None:
        """Writes a file, or replaces it; a reader sees all of it or nothing. `path` is relative, with slashes.

        Raises OSError or an error of the store's library. Then the file is as it was before, or it is complete.
        """
        ...


class FolderTarget:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, path: str, content: bytes) -> None:
        final = self._folder / path
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.with_name(final.name + ".tmp")
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(final)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        directory = os.open(final.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


class ObjectTarget:
    """Writes files to object storage, such as S3. It never lists files, because a store's listings may be out of
    date.
    """

    def __init__(self, store: Any, prefix: str) -> None:
        """Takes a file system of fsspec, and the bucket with the path in it."""
        self._store = store
        self._prefix = prefix.rstrip("/")

    def put(self, path: str, content: bytes) -> None:
        name = f"{self._prefix}/{path}"
        if not getattr(self._store, "async_impl", False):
            self._store.pipe_file(name, content)
            return
        # gcsfs waits more than ten minutes for a server that accepts connections and is silent.
        upload = asyncio.wait_for(self._store._pipe_file(name, content), MAX_PUT_SECONDS)
        asyncio.run_coroutine_threadsafe(upload, self._store.loop).result()


def open_target(address: str) -> ExportTarget:
    """Returns the target for Parquet files at a folder or URL; raises WrongTarget if the address is invalid, or
    needs a package that is not installed.
    """
    scheme, separator, rest = address.partition("://")
    if not address:
        raise WrongTarget(
            "POINTSMAN_EXPORT_TARGET is empty: set a folder, s3://, gs:// or abfs:// with a path, or otlp+http://HOST:4318"
        )
    if not separator or scheme == "file":
        return FolderTarget(Path(rest if separator else address))
    if scheme not in OBJECT_STORES or not rest.strip("/"):
        raise WrongTarget(
            f"'{address}' is no target for exports: use a folder, s3://BUCKET/PATH, gs://BUCKET/PATH or "
            "abfs://CONTAINER/PATH"
        )
    try:
        store, prefix = fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise WrongTarget(f"'{address}' needs a package that is not installed ({_PACKAGES}): {error}") from error
    return ObjectTarget(store, prefix)
