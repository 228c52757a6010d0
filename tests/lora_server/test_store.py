"""The artifact store keeps checked files unchanged, in a local folder and through fsspec."""

import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from pointsman_lora_server.checks.attachments import MAX_ROW_BYTES, MAX_ROWS
from pointsman_lora_server.checks.base_layers import BaseModelSpec, read_base
from pointsman_lora_server.domain import AdapterVersion
from pointsman_lora_server.store import ArtifactStore, content_hash
from pointsman_lora_server.store.layout import remove_abandoned, scratch_folder
from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, NotFound, PointsmanError

from tests.lora_server.server_process import MakeAdapter

ROW = json.dumps({"messages": [{"role": "user", "content": "Where is my train?"}], "answer": "At Saltby."})


@dataclass
class StoreAccess:
    """A kind of store, with direct access to the files in it."""

    root: str
    here: Path
    base: BaseModelSpec

    def store(self) -> ArtifactStore:
        return ArtifactStore(self.root, self.base, max_rank=8, cache_folder=self.here)

    def paths(self) -> list[str]:
        """Returns the paths of all stored files below the root."""
        files, root = fsspec.core.url_to_fs(self.root)
        return sorted(str(path)[len(str(root)) :].lstrip("/") for path in files.find(root))

    def damage(self, version: AdapterVersion) -> None:
        files, root = fsspec.core.url_to_fs(self.root)
        path = f"{root}/{version.name}/{version.sha256[:12]}/adapter_model.safetensors"
        if (local := Path(path)).exists():
            local.chmod(0o644)
        raw = files.cat_file(path)
        files.pipe_file(path, raw[:-1] + b"\x01")

    def remove(self, version: AdapterVersion, name: str) -> None:
        files, root = fsspec.core.url_to_fs(self.root)
        files.rm_file(f"{root}/{version.name}/{version.sha256[:12]}/{name}")


@pytest.fixture(params=["folder", "file", "memory"])
def access(request: pytest.FixtureRequest, tmp_path: Path, base: BaseModelSpec) -> Iterator[StoreAccess]:
    root = {
        "folder": str(tmp_path / "store"),
        "file": f"file://{tmp_path}/store",
        "memory": f"memory://{tmp_path.name}/store",
    }[request.param]
    yield StoreAccess(root, tmp_path / "here", base)
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()


@pytest.fixture
def store(access: StoreAccess) -> ArtifactStore:
    return access.store()


def test_a_versions_hash_does_not_depend_on_the_configs_formatting(
    store: ArtifactStore, make_adapter: MakeAdapter
) -> None:
    folder = make_adapter()
    first = store.add("triage", folder, {})
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(dict(reversed(config.items()))))

    again = store.add("triage", folder, {"other": "facts"})

    assert again.version == first.version


def test_other_content_is_another_version(store: ArtifactStore, make_adapter: MakeAdapter) -> None:
    first = store.add("triage", make_adapter("a", seed=1), {})
    second = store.add("triage", make_adapter("b", seed=2), {})

    assert first.version != second.version
    assert second.version == f"triage@{second.sha256[:12]}"


def test_the_hash_separates_config_and_weights(tmp_path: Path) -> None:
    for folder, config, weights in (("a", "xy", "z"), ("b", "x", "yz")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "adapter_config.json").write_text(config)
        (tmp_path / folder / "adapter_model.safetensors").write_text(weights)

    assert content_hash(tmp_path / "a") != content_hash(tmp_path / "b")


def test_a_stored_version_is_independent_of_its_source(store: ArtifactStore, make_adapter: MakeAdapter) -> None:
    source = make_adapter()
    version = store.add("triage", source, {})
    for file in source.iterdir():
        file.write_bytes(b"")

    stored = store.fetch(version)

    assert content_hash(stored) == version.sha256
    manifest = json.loads((stored / "manifest.json").read_text())
    assert (manifest["sha256"], manifest["rank"]) == (version.sha256, 2)


def test_the_manifest_names_base_model_and_training(
    access: StoreAccess, base_folder: Path, make_adapter: MakeAdapter
) -> None:
    (base_folder / "pointsman.json").write_text(json.dumps({"name": "tiny", "digest": "d" * 64}))
    (base_folder / "chat_template.jinja").write_text("{{ messages }}")
    folder, parent = make_adapter(), "triage@0123456789ab"
    report = {
        "data": {"sha256": "a" * 64},
        "heldout_loss": {"before": 2.0, "end": 0.5},
        "exact_share": 0.75,
        "metrics": {"prompt_path_exact": 0.25, "heldout_exact": 0.8, "odd": "text", "long": 10**400},
        "parent": parent,
        "base_model_digest": "d" * 64,
    }
    (folder / "training.json").write_text(json.dumps(report))
    access.base = read_base(base_folder, "tiny-base")

    version = access.store().add("triage", folder, {"seed": "7"}, author="ann")

    assert (version.base_digest, version.training_data_sha256) == ("d" * 64, "a" * 64)
    assert version.chat_template_sha256 == hashlib.sha256(b"{{ messages }}").hexdigest()
    assert version.metrics == {"heldout_loss": 0.5, "heldout_exact": 0.8, "prompt_path_exact": 0.25}
    assert (version.parent, version.author, version.facts) == (parent, "ann", {"seed": "7"})
    manifest = json.loads((access.store().fetch(version) / "manifest.json").read_text())
    assert manifest["metrics"] == version.metrics


def test_an_adapter_of_another_base_model_is_rejected(
    access: StoreAccess, base_folder: Path, make_adapter: MakeAdapter
) -> None:
    (base_folder / "pointsman.json").write_text(json.dumps({"digest": "d" * 64}))
    access.base = read_base(base_folder, "tiny-base")
    folder = make_adapter()

    assert _refusal(lambda: access.store().add("a", folder, {"base_model_digest": "e" * 64})).code == "wrong_base_model"
    (folder / "training.json").write_text(json.dumps({"base_model_digest": "e" * 64}))
    assert _refusal(lambda: access.store().add("a", folder, {})).code == "wrong_base_model"


def test_held_out_rows_are_stored_with_a_version_but_not_hashed(access: StoreAccess, make_adapter: MakeAdapter) -> None:
    store, folder = access.store(), make_adapter()
    without = store.add("triage", folder, {})
    assert store.samples(without) == ()
    (folder / "samples.jsonl").write_text(f"{ROW}\n\n{ROW}\n")

    version = store.add("triage", folder, {})

    assert version.version == without.version
    samples = access.store().samples(version)
    assert [sample.answer for sample in samples] == ["At Saltby."] * 2
    assert samples[0].messages[0].content == "Where is my train?"


def test_held_out_rows_at_the_limits_are_read_back(store: ArtifactStore, make_adapter: MakeAdapter) -> None:
    turns = [{"role": ("user", "assistant")[turn % 2], "content": "a"} for turn in range(1801)]
    bare = json.dumps({"messages": turns, "answer": ""}, separators=(",", ":"))
    full = bare.removesuffix('"}') + "y" * (MAX_ROW_BYTES - len(bare)) + '"}'
    last = full.replace("y" * MAX_ROWS, "y", 1)  # for the ends of the other lines
    folder = make_adapter()
    (folder / "samples.jsonl").write_text("\n".join([*[full] * (MAX_ROWS - 1), last]))

    samples = store.samples(store.add("triage", folder, {}))

    assert [len(sample.messages) for sample in samples] == [len(turns)] * MAX_ROWS


def test_registering_again_with_other_held_out_rows_replaces_them(
    store: ArtifactStore, make_adapter: MakeAdapter
) -> None:
    folder = make_adapter()
    (folder / "samples.jsonl").write_text(ROW)
    version = store.add("triage", folder, {})
    (folder / "samples.jsonl").write_text(ROW.replace("Saltby", "Larkmoor"))

    store.add("triage", folder, {})

    assert [sample.answer for sample in store.samples(version)] == ["At Larkmoor."]
    assert content_hash(store.fetch(version)) == version.sha256


def test_a_modified_version_is_not_returned(access: StoreAccess, make_adapter: MakeAdapter) -> None:
    version = access.store().add("triage", make_adapter(), {})
    access.damage(version)

    other_machine = replace_here(access).store()

    assert _refusal(lambda: other_machine.fetch(version), FailedPrecondition).code == "hash_mismatch"


def test_registering_a_damaged_version_again_repairs_it(access: StoreAccess, make_adapter: MakeAdapter) -> None:
    version = access.store().add("triage", make_adapter(), {})
    access.damage(version)

    access.store().add("triage", make_adapter(), {})

    assert content_hash(replace_here(access).store().fetch(version)) == version.sha256


def test_a_version_without_its_manifest_does_not_exist(access: StoreAccess, make_adapter: MakeAdapter) -> None:
    version = access.store().add("triage", make_adapter(), {})
    access.remove(version, "manifest.json")
    other_machine = replace_here(access)

    assert _refusal(lambda: other_machine.store().fetch(version), NotFound).code == "unknown_version"
    other_machine.store().add("triage", make_adapter(), {})
    assert content_hash(other_machine.store().fetch(version)) == version.sha256


def test_a_version_that_was_never_stored_is_not_found(store: ArtifactStore, make_adapter: MakeAdapter) -> None:
    version = store.add("triage", make_adapter(), {})
    unknown = replace(version, sha256="0" * 64)

    assert _refusal(lambda: store.fetch(unknown), NotFound).code == "unknown_version"
    assert _refusal(lambda: store.samples(unknown), NotFound).code == "unknown_version"


@pytest.mark.parametrize("name", ["../etc", "a/b", "", "Triage", "a\0b", "ünïcode", "..", "/abs"])
def test_an_invalid_version_name_never_becomes_a_path(
    store: ArtifactStore, make_adapter: MakeAdapter, name: str
) -> None:
    strange = replace(store.add("triage", make_adapter(), {}), name=name)

    for use in (store.fetch, store.samples, store.delete):
        assert _refusal(lambda use=use: use(strange)).code == "bad_version"  # type: ignore[misc]  # bound at once


def test_a_rejected_adapter_leaves_no_files(access: StoreAccess, make_adapter: MakeAdapter) -> None:
    folder = make_adapter()
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])

    _refusal(lambda: access.store().add("triage", folder, {}))

    assert access.paths() == []
    assert _files(access.here) == []


def test_a_deleted_version_leaves_no_files_and_deletion_is_idempotent(
    access: StoreAccess, make_adapter: MakeAdapter
) -> None:
    store, folder = access.store(), make_adapter()
    (folder / "samples.jsonl").write_text(ROW)
    version = store.add("triage", folder, {})
    store.fetch(version)

    store.delete(version)

    assert access.paths() == []
    assert _files(access.here) == []
    _refusal(lambda: store.fetch(version), NotFound)
    store.delete(version)
    assert store.add("triage", folder, {}).version == version.version
    assert store.fetch(version).is_dir()


def test_an_interrupted_deletion_is_completed_by_the_next(access: StoreAccess, make_adapter: MakeAdapter) -> None:
    store = access.store()
    version = store.add("triage", make_adapter(), {})
    access.remove(version, "manifest.json")  # the least recently used comes first

    store.delete(version)

    assert access.paths() == []


def test_deleting_one_version_leaves_the_others(store: ArtifactStore, make_adapter: MakeAdapter) -> None:
    first = store.add("triage", make_adapter("a", seed=1), {})
    second = store.add("triage", make_adapter("b", seed=2), {})

    store.delete(first)

    assert content_hash(store.fetch(second)) == second.sha256


def test_versions_with_equal_short_hashes_are_distinguished_by_the_full_hash(
    store: ArtifactStore, make_adapter: MakeAdapter
) -> None:
    version = store.add("triage", make_adapter(), {})
    twin = replace(version, sha256=version.sha256[:12] + "0" * 52)

    _refusal(lambda: store.fetch(twin), FailedPrecondition)


def test_concurrent_registrations_of_the_same_content_succeed(access: StoreAccess, make_adapter: MakeAdapter) -> None:
    store, folder = access.store(), make_adapter()
    with ThreadPoolExecutor(8) as threads:
        versions = list(threads.map(lambda _: store.add("triage", folder, {}), range(16)))

    assert len({version.version for version in versions}) == 1
    assert content_hash(store.fetch(versions[0])) == versions[0].sha256


def test_incomplete_files_are_removed_at_the_next_start(access: StoreAccess, make_adapter: MakeAdapter) -> None:
    access.store()
    local = Path(access.root) if "://" not in access.root else access.here
    old, young = local / ".incoming" / "old", local / ".incoming" / "young"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_bytes(b"half")
    os.utime(old, (time.time() - 3600, time.time() - 3600))

    access.store()

    assert (old.exists(), young.exists()) == (False, True)


def test_without_locks_incomplete_files_are_removed_after_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_to_lock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse_to_lock)
    hours = {2: tmp_path / ".incoming" / "hours", 25: tmp_path / ".incoming" / "days"}
    for age, folder in hours.items():
        folder.mkdir(parents=True)
        os.utime(folder, (time.time() - age * 3600, time.time() - age * 3600))

    remove_abandoned(tmp_path)

    assert [folder.exists() for folder in hours.values()] == [True, False]


def test_the_folder_of_a_living_process_is_not_removed(tmp_path: Path) -> None:
    with scratch_folder(tmp_path) as folder:
        os.utime(folder, (0, 0))
        remove_abandoned(tmp_path)
        assert folder.exists()


@pytest.mark.parametrize(
    "words",
    [
        {"facts": {str(number): "" for number in range(65)}},
        {"facts": {"notes": "x" * 1025}},
        {"facts": {}, "author": "x" * 1025},
    ],
)
def test_the_size_of_facts_is_limited(store: ArtifactStore, make_adapter: MakeAdapter, words: dict[str, Any]) -> None:
    assert _refusal(lambda: store.add("triage", make_adapter(), **words)).code == "bad_facts"


def replace_here(access: StoreAccess) -> StoreAccess:
    """Returns the store as another machine sees it, which has not downloaded anything."""
    return replace(access, here=access.here.with_name("elsewhere"))


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _refusal(act: Callable[[], object], of: type[PointsmanError] = InvalidArgument) -> PointsmanError:
    with pytest.raises(of) as caught:
        act()
    return caught.value
