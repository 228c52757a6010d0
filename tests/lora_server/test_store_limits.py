"""Limits of the artifact store: a full disk, an unavailable service, the download cache, and concurrent downloads."""

import json
import logging
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import fsspec
import pytest
from pointsman_lora_server.checks.base_layers import BaseModelSpec
from pointsman_lora_server.store import ArtifactStore, content_hash, remote_backend
from pointsman_servicekit.errors import FailedPrecondition, NotFound, Unavailable

from tests.lora_server.server_process import MakeAdapter

ADD = """
import json, sys
from pathlib import Path
from pointsman_lora_server.checks.base_layers import read_base
from pointsman_lora_server.store import ArtifactStore
from pointsman_servicekit.errors import PointsmanError
root, base, adapter = sys.argv[1:]
try:
    ArtifactStore(root, read_base(Path(base), "tiny-base"), 8).add("triage", adapter, {})
except PointsmanError as error:
    print(json.dumps([type(error).__name__, error.code, error.message]))
"""


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[str]:
    yield f"memory://{tmp_path.name}/store"
    fsspec.filesystem("memory").store.clear()


def test_a_full_disk_is_reported_and_leaves_no_partial_version(
    tmp_path: Path, base_folder: Path, make_adapter: MakeAdapter
) -> None:
    """Uses a real limit of file sizes; a full disk fails in the same place (ENOSPC instead of EFBIG)."""
    root, adapter = tmp_path / "store", make_adapter()

    family, code, message = add_to_full_disk(root, base_folder, str(adapter), adapter)

    assert (family, code) == ("ResourceExhausted", "store_full")
    assert str(root) in message
    assert [path for path in root.rglob("*") if path.is_file()] == []


def add_to_full_disk(root: Path, base_folder: Path, source: str, adapter: Path) -> list[str]:
    """Registers `source` in a process that cannot write a file as large as the weights in the folder `adapter`.

    Returns the class, code and message of the error.
    """
    limit = (adapter / "adapter_model.safetensors").stat().st_size - 1
    done = subprocess.run(
        [sys.executable, "-c", ADD, str(root), str(base_folder), source],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=True,
    )
    error: list[str] = json.loads(done.stdout)
    return error


def test_an_unwritable_store_is_unavailable(tmp_path: Path, base: BaseModelSpec, make_adapter: MakeAdapter) -> None:
    (tmp_path / "file").write_text("")
    store = ArtifactStore(tmp_path / "file" / "store", base, 8)

    with pytest.raises(Unavailable) as caught:
        store.add("triage", make_adapter(), {})

    assert caught.value.code == "store_unavailable"


def test_a_later_modification_of_a_version_is_detected(
    tmp_path: Path, base: BaseModelSpec, make_adapter: MakeAdapter
) -> None:
    store = ArtifactStore(tmp_path / "store", base, 8)
    version = store.add("triage", make_adapter(), {})
    weights = store.fetch(version) / "adapter_model.safetensors"
    before = weights.stat()
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))  # like a service that hides the reason

    with pytest.raises(FailedPrecondition):
        store.fetch(version)


def test_a_damaged_cached_copy_is_downloaded_again(
    tmp_path: Path, base: BaseModelSpec, make_adapter: MakeAdapter, memory: str
) -> None:
    store = ArtifactStore(memory, base, 8, cache_folder=tmp_path / "here")
    version = store.add("triage", make_adapter(), {})
    weights = store.fetch(version) / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(b"")

    assert content_hash(store.fetch(version)) == version.sha256


def test_downloaded_versions_are_available_without_the_service(
    tmp_path: Path, base: BaseModelSpec, make_adapter: MakeAdapter, memory: str
) -> None:
    version = ArtifactStore(memory, base, 8, cache_folder=tmp_path / "a").add("triage", make_adapter(), {})
    store = ArtifactStore(memory, base, 8, cache_folder=tmp_path / "b")
    store.fetch(version)
    fsspec.filesystem("memory").store.clear()

    assert content_hash(ArtifactStore(memory, base, 8, cache_folder=tmp_path / "b").fetch(version)) == version.sha256


def test_concurrent_requests_share_one_download(
    tmp_path: Path, base: BaseModelSpec, make_adapter: MakeAdapter, memory: str, caplog: pytest.LogCaptureFixture
) -> None:
    version = ArtifactStore(memory, base, 8, cache_folder=tmp_path / "a").add("triage", make_adapter(), {})
    store = ArtifactStore(memory, base, 8, cache_folder=tmp_path / "b")

    with caplog.at_level(logging.INFO), ThreadPoolExecutor(16) as threads:
        folders = set(threads.map(lambda _: store.fetch(version), range(100)))

    assert len(folders) == 1
    assert len([record for record in caplog.records if "was downloaded from" in record.message]) == 1


def test_unused_versions_are_evicted_from_the_cache_only(
    tmp_path: Path, base: BaseModelSpec, make_adapter: MakeAdapter, memory: str
) -> None:
    here = tmp_path / "here"
    store = ArtifactStore(memory, base, 8, cache_folder=here, max_cache_bytes=1)
    versions = [store.add("triage", make_adapter(str(seed), seed=seed), {}) for seed in range(3)]
    assert all((here / "triage" / version.sha256[:12]).exists() for version in versions)  # it may be in use
    for version in versions[:2]:
        long_ago = time.time() - remote_backend.MIN_CACHED_SECONDS - 1
        os.utime(here / "triage" / version.sha256[:12], (long_ago, long_ago))

    store.add("triage", make_adapter("3", seed=3), {})

    assert [(here / "triage" / version.sha256[:12]).exists() for version in versions] == [False, False, True]
    assert content_hash(store.fetch(versions[0])) == versions[0].sha256


def test_a_url_needs_a_cache_folder_and_a_supporting_package(tmp_path: Path, base: BaseModelSpec) -> None:
    with pytest.raises(ValueError, match="needs a local folder"):
        ArtifactStore("memory://store", base, 8)
    with pytest.raises(ValueError, match="nosuchkind"):
        ArtifactStore("nosuchkind://store", base, 8, cache_folder=tmp_path)


CHURN = """
import sys
from pathlib import Path
from pointsman_lora_server.checks.base_layers import read_base
from pointsman_lora_server.store import ArtifactStore
root, base, *adapters = sys.argv[1:]
store = ArtifactStore(root, read_base(Path(base), "tiny-base"), 8)
print("begins", flush=True)
while True:
    for version in [store.add("triage", Path(adapter), {}) for adapter in adapters]:
        store.delete(version)
"""


@pytest.mark.parametrize("milliseconds", [3, 8, 21, 34])
def test_a_kill_never_leaves_a_partial_version(
    tmp_path: Path, base: BaseModelSpec, base_folder: Path, make_adapter: MakeAdapter, milliseconds: int
) -> None:
    root = tmp_path / "store"
    adapters = [make_adapter(str(seed), seed=seed) for seed in range(3)]
    versions = [ArtifactStore(tmp_path / "known", base, 8).add("triage", adapter, {}) for adapter in adapters]
    with subprocess.Popen(
        [sys.executable, "-c", CHURN, str(root), str(base_folder), *map(str, adapters)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"begins\n"
        time.sleep(milliseconds / 1000)  # at an arbitrary point of its work
        process.kill()

    store = ArtifactStore(root, base, 8)
    for version in versions:
        with suppress(NotFound):
            assert content_hash(store.fetch(version)) == version.sha256
    for adapter, version in zip(adapters, versions, strict=True):
        store.add("triage", adapter, {})
        store.delete(version)
    assert [path for path in root.rglob("*") if path.is_file() and ".incoming" not in path.parts] == []
