"""Damaged collections do not keep others from being served, and stay on disk until another collection has replaced
them."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from pointsman_retriever.bootstrap import snapshot_factory
from pointsman_retriever.collections.registry import CollectionRegistry
from pointsman_retriever.concurrency import ThreadPool
from pointsman_retriever.domain import CollectionId, CollectionInfo
from pointsman_retriever.index.faiss_index import FaissStore
from pointsman_retriever.store.data_folder import STORE_FILE, DataFolder, claim_data_folder
from pointsman_retriever.store.store import create_store
from pointsman_servicekit.errors import Internal, PointsmanError

from tests.retriever.damage import tamper

NOTES = CollectionId("default", "notes")

OpenRegistry = Callable[[DataFolder], CollectionRegistry]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data folder with two empty collections, "notes" and "others"."""
    for name in ("notes", "others"):
        new_store(tmp_path / "data" / "default" / name)
    return tmp_path / "data"


def new_store(folder: Path, fingerprint: str = "model") -> Path:
    """Creates a folder with the file of an empty collection."""
    folder.mkdir(parents=True)
    create_store(folder, CollectionInfo("any", fingerprint, 4))
    return folder


def damage(folder: Path) -> Path:
    """Damages a collection's file so that it is not loaded."""
    tamper(folder / STORE_FILE, "UPDATE collection SET chunks = 7")
    return folder


@pytest.fixture
def open_registry() -> Iterator[OpenRegistry]:
    """Opens the collections of a data folder, and closes them after the test."""
    opened: list[CollectionRegistry] = []

    def open_registry(data_folder: DataFolder) -> CollectionRegistry:
        opened.append(CollectionRegistry(data_folder, 2, snapshot_factory(FaissStore()), write_pool))
        opened[-1].load()
        return opened[-1]

    with closing(ThreadPool("write", 1)) as write_pool:
        yield open_registry
        for registry in opened:
            registry.close()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM collection",
        "UPDATE collection SET checksum = 'xyz'",
        "UPDATE collection SET fingerprint = CAST(x'ff' AS TEXT)",
        "UPDATE collection SET search = 'null'",
    ],
)
def test_damaged_settings_keep_no_other_collection_from_loading(
    root: Path, open_registry: OpenRegistry, statement: str
) -> None:
    tamper(root / "default" / "notes" / STORE_FILE, statement)
    with claim_data_folder(root) as data_folder:
        registry = open_registry(data_folder)
        notes, others = registry.statuses()
        assert "damaged" in notes.problem
        assert others.problem == ""
        with pytest.raises(Internal) as raised:
            registry.collection(NOTES)
        assert raised.value.code == "collection_damaged"


def damaged_folder(tmp_path: Path) -> Path:
    return damage(new_store(tmp_path / "new"))


def missing_folder(tmp_path: Path) -> Path:
    return tmp_path / "missing"


@pytest.mark.parametrize("replacement", [missing_folder, damaged_folder])
def test_a_damaged_collection_stays_if_its_replacement_fails(
    root: Path, tmp_path: Path, open_registry: OpenRegistry, replacement: Callable[[Path], Path]
) -> None:
    file = damage(root / "default" / "notes") / STORE_FILE
    with claim_data_folder(root) as data_folder:
        registry = open_registry(data_folder)
        old, before = file.read_bytes(), registry.statuses()
        with pytest.raises(PointsmanError):
            registry.replace(replacement(tmp_path), NOTES)
        assert file.read_bytes() == old
        assert registry.statuses() == before
        assert before[0].problem

        registry.replace(new_store(tmp_path / "whole"), NOTES)
        assert [status.problem for status in registry.statuses()] == ["", ""]
        assert sorted(folder.name for folder in file.parents[1].iterdir()) == ["notes", "others"]


@pytest.mark.parametrize(("is_installed", "survivor"), [(False, "model"), (True, "newer")])
def test_a_replacement_in_which_the_process_was_killed_is_finished_at_the_next_start(
    root: Path, tmp_path: Path, open_registry: OpenRegistry, is_installed: bool, survivor: str
) -> None:
    crashed = tmp_path / "crashed"  # the state on disk at the time of the crash
    with claim_data_folder(root) as data_folder, data_folder.setting_aside(NOTES):
        if is_installed:
            with data_folder.installing(new_store(tmp_path / "new", "newer"), NOTES):
                shutil.copytree(root, crashed)
        else:
            shutil.copytree(root, crashed)
    with claim_data_folder(crashed) as data_folder:
        assert open_registry(data_folder).collection(NOTES).info.fingerprint == survivor
    assert sorted(folder.name for folder in (crashed / "default").iterdir()) == ["notes", "others"]


def test_a_store_that_cannot_be_loaded_leaves_no_collection(
    root: Path, tmp_path: Path, open_registry: OpenRegistry
) -> None:
    with claim_data_folder(root) as data_folder:
        registry = open_registry(data_folder)
        fresh = CollectionId("default", "fresh")
        with pytest.raises(Internal):
            registry.add(damaged_folder(tmp_path), fresh)
        registry.add(new_store(tmp_path / "whole"), fresh)
        assert [status.info.name for status in registry.statuses()] == ["fresh", "notes", "others"]


def test_a_collection_is_deleted_with_what_was_set_aside(root: Path, open_registry: OpenRegistry) -> None:
    with claim_data_folder(root) as data_folder:
        registry = open_registry(data_folder)
        notes = root / "default" / "notes"
        shutil.copytree(notes, notes.with_suffix(".aside"))  # as if the disk had failed when it was to be deleted
        registry.remove(NOTES)
    with claim_data_folder(root) as data_folder:
        assert [one.name for one in data_folder.collections()] == ["others"]
