"""A collection's file copied while it is written to: a snapshot, and a snapshot taken back."""

import sqlite3
from contextlib import closing
from pathlib import Path

from pointsman_servicekit.errors import InvalidArgument, PointsmanError

from pointsman_retriever.domain import CollectionId, CollectionInfo, Quota
from pointsman_retriever.store import checking
from pointsman_retriever.store.connections import translate_errors
from pointsman_retriever.store.folders import STORE_FILE, sync_file, sync_folder
from pointsman_retriever.store.sqlite import Store

_READERS = 2


def copy_store(store: Store, target: Path) -> CollectionInfo:
    """Writes one file: the collection as it is at one moment. Returns what the copy says of itself."""
    target.mkdir(exist_ok=True)
    with (
        store.connections.reading() as reader,
        closing(sqlite3.connect(target / STORE_FILE)) as into,
        translate_errors(target / STORE_FILE),
    ):
        reader.backup(into)
        # One file, complete without a log beside it.
        into.execute("PRAGMA journal_mode = DELETE")
    sync_file(target / STORE_FILE)
    copied = Store(store.id, target, _READERS)
    try:
        return copied.collection()
    finally:
        copied.close()


def accept_snapshot(collection: CollectionId, folder: Path, quota: Quota) -> CollectionInfo:
    """Checks every row of a snapshot that lies in `folder`, and gives it the quota; raises InvalidArgument."""
    try:
        store = Store(collection, folder, _READERS)
        try:
            findings = checking.check_all(store)
            if findings.problems:
                raise _damaged_snapshot("; ".join(findings.problems))
            return store.configure(quota)
        finally:
            store.close()
            sync_folder(folder)
    except PointsmanError as error:
        if error.code in ("disk_full", "disk_failed", "snapshot_damaged"):
            raise
        raise _damaged_snapshot(error.message) from error


def _damaged_snapshot(reason: str) -> InvalidArgument:
    return InvalidArgument(
        f"the snapshot cannot be restored: {reason}; nothing was changed", code="snapshot_damaged", param="snapshot"
    )
