"""`pointsman backup` with a folder as the storage; tests/restore uses an S3 interface."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pointsman_cli.backup import SUMS, open_store

Cli = Callable[..., Any]
NOON = datetime(2026, 11, 30, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    (folder / "collections" / "acme").mkdir(parents=True)
    (folder / "valkey.rdb").write_bytes(b"keys")
    (folder / "collections" / "acme" / "notes.snapshot").write_bytes(b"documents")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != SUMS)
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_a_copy_comes_back_as_it_was(cli: Cli, tmp_path: Path, state: Path) -> None:
    url = f"file://{tmp_path / 'bucket'}"
    uploaded = cli("backup", "upload", state, url)
    assert (uploaded.code, "is complete" in uploaded.out) == (0, True), uploaded.err
    fetched = cli("backup", "download", url, tmp_path / "back")
    assert fetched.code == 0, fetched.err
    assert contents(tmp_path / "back") == contents(state)
    assert cli("backup", "download", url, tmp_path / "back").code == 2  # it is not empty


def test_the_newest_complete_copies_are_kept(tmp_path: Path, state: Path) -> None:
    store = open_store(f"file://{tmp_path / 'bucket'}")
    names = [store.add(state, NOON + timedelta(days=day)) for day in range(5)]
    (tmp_path / "bucket" / names[3] / SUMS).unlink()  # as if the upload had been killed
    (tmp_path / "bucket" / "notes.txt").write_text("not a copy")
    assert store.keep_newest(2) == names[:2]
    assert store.complete() == [names[2], names[4]]
    assert sorted(path.name for path in (tmp_path / "bucket").iterdir()) == [*names[2:], "notes.txt"]
    store.fetch(names[2], tmp_path / "back")
    assert contents(tmp_path / "back") == contents(state)


def test_a_damaged_or_incomplete_copy_is_refused(cli: Cli, tmp_path: Path, state: Path) -> None:
    url = f"file://{tmp_path / 'bucket'}"
    name = open_store(url).add(state, NOON)
    (tmp_path / "bucket" / name / "valkey.rdb").write_bytes(b"kexs")
    refused = cli("backup", "download", url, tmp_path / "back", "--at", name)
    assert (refused.code, f"valkey.rdb of {url}/{name} is damaged" in refused.err) == (1, True)
    (tmp_path / "bucket" / name / SUMS).unlink()
    refused = cli("backup", "download", url, tmp_path / "other")
    assert (refused.code, "has no complete copy yet; it has none" in refused.err) == (1, True)


@pytest.mark.parametrize(("url", "code"), [("nothing://bucket", 2), ("ssh://nowhere.invalid/folder", 1)])
def test_a_storage_that_cannot_be_used_is_named(cli: Cli, state: Path, url: str, code: int) -> None:
    refused = cli("backup", "upload", state, url)
    assert refused.code == code
    assert url.strip() in refused.err


def test_an_empty_folder_is_not_copied(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert cli("backup", "upload", tmp_path / "empty", f"file://{tmp_path / 'bucket'}").code == 2
    assert not (tmp_path / "bucket").exists()
