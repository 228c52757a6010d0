"""The store keeps what was checked, and keeps it as it is."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pointsman_lora_server.checks.base import Base
from pointsman_lora_server.store import Store, content_hash
from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, NotFound

MakeAdapter = Callable[..., Path]


@pytest.fixture
def store(tmp_path: Path, base: Base) -> Store:
    return Store(tmp_path / "store", base, max_rank=8)


def test_the_same_content_is_the_same_version_however_the_config_is_written(
    store: Store, make_adapter: MakeAdapter
) -> None:
    folder = make_adapter()
    first = store.add("triage", folder, {})
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(dict(reversed(config.items()))))

    again = store.add("triage", folder, {"other": "facts"})

    assert again.version == first.version


def test_other_content_is_another_version(store: Store, make_adapter: MakeAdapter) -> None:
    first = store.add("triage", make_adapter("a", seed=1), {})
    second = store.add("triage", make_adapter("b", seed=2), {})

    assert first.version != second.version
    assert second.version == f"triage@{second.sha256[:12]}"


def test_a_byte_cannot_change_sides_between_config_and_weights(tmp_path: Path) -> None:
    for folder, config, weights in (("a", "xy", "z"), ("b", "x", "yz")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "adapter_config.json").write_text(config)
        (tmp_path / folder / "adapter_model.safetensors").write_text(weights)

    assert content_hash(tmp_path / "a") != content_hash(tmp_path / "b")


def test_what_is_stored_does_not_change_with_its_source(store: Store, make_adapter: MakeAdapter) -> None:
    source = make_adapter()
    version = store.add("triage", source, {})
    for file in source.iterdir():
        file.write_bytes(b"")

    stored = store.folder(version.version, version.sha256)

    assert content_hash(stored) == version.sha256
    manifest = json.loads((stored / "manifest.json").read_text())
    assert (manifest["sha256"], manifest["rank"]) == (version.sha256, 2)


def test_a_version_that_was_changed_in_the_store_is_not_handed_out(store: Store, make_adapter: MakeAdapter) -> None:
    version = store.add("triage", make_adapter(), {})
    _damage(store.folder(version.version, version.sha256))

    with pytest.raises(FailedPrecondition) as caught:
        store.folder(version.version, version.sha256)

    assert caught.value.code == "hash_mismatch"


def test_registering_a_damaged_version_again_makes_it_whole(store: Store, make_adapter: MakeAdapter) -> None:
    version = store.add("triage", make_adapter(), {})
    _damage(store.folder(version.version, version.sha256))

    store.add("triage", make_adapter(), {})

    assert store.folder(version.version, version.sha256).is_dir()


def test_a_version_of_another_machine_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound, match="not in the store"):
        store.folder("triage@0123456789ab", "0" * 64)


@pytest.mark.parametrize(
    "version", ["../etc@0123456789ab", "triage@../../etc/pas", "triage", "triage@0123456789AB", "@"]
)
def test_a_version_that_is_none_never_becomes_a_path(store: Store, version: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        store.folder(version, "0" * 64)

    assert caught.value.code == "bad_version"


def test_a_refused_adapter_leaves_nothing_behind(store: Store, make_adapter: MakeAdapter, tmp_path: Path) -> None:
    folder = make_adapter()
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])

    with pytest.raises(InvalidArgument):
        store.add("triage", folder, {})

    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


def test_the_same_name_with_an_equal_hash_is_told_apart_by_the_whole_hash(
    store: Store, make_adapter: MakeAdapter
) -> None:
    version = store.add("triage", make_adapter(), {})
    twin = replace(version, sha256=version.sha256[:12] + "0" * 52)

    with pytest.raises(FailedPrecondition):
        store.folder(twin.version, twin.sha256)


def _damage(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
