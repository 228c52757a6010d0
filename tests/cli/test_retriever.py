"""`pointsman retriever` with a real retriever."""

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.cli.real_retriever import running

Cli = Callable[..., Any]


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    for number in range(5):
        (folder / f"n{number}.txt").write_text(f"The lamp at platform {number} is green.")
    return folder


def test_an_operator_lists_verifies_copies_and_restores(cli: Cli, tmp_path: Path, notes: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "notes.snapshot"
    with running(data) as address:
        at = ("--retriever", address)
        assert cli("ingest", "notes", notes, "--tenant", "acme", *at).code == 0
        acme = ("--tenant", "acme", *at)

        listed = cli("retriever", "list", *acme)
        assert "notes" in listed.out
        assert "consistent" in listed.out
        assert "notes" not in cli("retriever", "list", *at).out

        assert "notes is consistent: 5 documents, 5 chunks" in cli("retriever", "verify", "notes", *acme).out
        taken = cli("retriever", "snapshot", "notes", copy, *acme)
        assert "5 documents" in taken.out
        assert cli("retriever", "snapshot", "notes", copy, *acme).code == 2  # it exists already

        refused = cli("retriever", "restore", "notes", copy, *acme)
        assert (refused.code, "(collection_exists)" in refused.err) == (1, True)
        assert "notes has 5 documents" in cli("retriever", "restore", "notes", copy, "--replace", *acme).out
        assert cli("retriever", "restore", "notes", copy, *at).code == 0  # now it belongs to another tenant
        assert "5 documents" in cli("retriever", "reembed", "notes", *acme).out  # there is nothing to do
        assert "in the local store: 5 documents" in cli("retriever", "move", "notes", "--to", "local", *acme).out
        assert "no shared store" in cli("retriever", "move", "notes", "--to", "shared", *acme).err
        assert cli("retriever", "move", "notes", "--to", "elsewhere", *acme).code == 2

        with closing(sqlite3.connect(data / "acme" / "notes" / "store.sqlite3", isolation_level=None)) as file:
            file.execute("UPDATE chunks SET text = 'Another.' WHERE id = 1")
        wrong = cli("retriever", "verify", "notes", *acme)
        assert wrong.code == 1
        assert re.search(r"wrong: chunk 1 of document 'n\d' is not the document's text", wrong.out)
        assert cli("retriever", "verify", "notes", *at).code == 0


def test_a_failed_snapshot_leaves_no_file(cli: Cli, tmp_path: Path) -> None:
    with running(tmp_path / "data") as address:
        outcome = cli("retriever", "snapshot", "nowhere", tmp_path / "copy", "--retriever", address)
    assert (outcome.code, "(unknown_collection)" in outcome.err) == (1, True)
    assert [one.name for one in tmp_path.iterdir()] == ["data"]


def test_all_collections_of_all_tenants_are_copied_and_restored(cli: Cli, tmp_path: Path, notes: Path) -> None:
    copies = tmp_path / "copies"
    with running(tmp_path / "data") as address:
        at = ("--retriever", address)
        for tenant, collection in (("acme", "notes"), ("default", "notes"), ("default", "more")):
            assert cli("ingest", collection, notes, "--tenant", tenant, *at).code == 0
        assert cli("retriever", "snapshot-all", copies, *at).code == 0
        assert cli("retriever", "snapshot-all", copies, *at).code == 2  # the folder is not empty
    written = sorted(str(file.relative_to(copies)) for file in copies.rglob("*") if file.is_file())
    assert written == ["acme/notes.snapshot", "default/more.snapshot", "default/notes.snapshot"]
    with running(tmp_path / "empty") as address:
        at = ("--retriever", address)
        assert cli("retriever", "restore-all", tmp_path / "data", *at).code == 2  # there are no snapshots
        assert cli("retriever", "restore-all", copies, *at).out.count("has 5 documents") == 3
        assert "(collection_exists)" in cli("retriever", "restore-all", copies, *at).err
        assert cli("retriever", "restore-all", copies, "--replace", *at).code == 0
        assert "notes is consistent: 5 documents" in cli("retriever", "verify", "notes", "--tenant", "acme", *at).out


def test_a_damaged_collection_is_reported_and_the_others_are_copied(cli: Cli, tmp_path: Path, notes: Path) -> None:
    data, copies = tmp_path / "data", tmp_path / "copies"
    with running(data) as address:
        for collection in ("broken", "notes"):
            assert cli("ingest", collection, notes, "--retriever", address).code == 0
    (data / "default" / "broken" / "store.sqlite3").write_bytes(b"damaged")
    with running(data) as address:
        outcome = cli("retriever", "snapshot-all", copies, "--retriever", address)
    assert (outcome.code, "no copy was made of default/broken" in outcome.err) == (1, True)
    assert [file.name for file in copies.rglob("*.snapshot")] == ["notes.snapshot"]
