"""Collections whose file is damaged: they are listed with the problem, and keep no other from being served."""

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
from pointsman_servicekit.errors import Internal

from tests.retriever.damage import tamper

NOTES = CollectionId("default", "notes")

OpenRegistry = Callable[[DataFolder], CollectionRegistry]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data folder with two empty collections, "notes" and "others"."""
    for name in ("notes", "others"):
        folder = tmp_path / "data" / "default" / name
        folder.mkdir(parents=True)
        create_store(folder, CollectionInfo(name, "model", 4))
    return tmp_path / "data"


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
