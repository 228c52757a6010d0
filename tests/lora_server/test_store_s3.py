"""The artifact store with a real S3 interface: moto's server in its own process, accessed by s3fs. Both are
optional."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pointsman_lora_server import fetch_model
from pointsman_lora_server.checks.base_layers import BaseModelSpec
from pointsman_lora_server.store import ArtifactStore, content_hash
from pointsman_servicekit.errors import FailedPrecondition, NotFound, Unavailable

from tests.lora_server.server_process import MakeAdapter
from tests.ports import free_port

s3fs = pytest.importorskip("s3fs", reason="pip install pointsman-lora-server[s3]")
pytest.importorskip("moto.server", reason="requirements-dev.txt names what it needs")

BUCKET = "adapters"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Runs the server, and yields its address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        deadline = time.monotonic() + 30
        while not _answers(port):
            assert time.monotonic() < deadline, "moto's server did not start"
            time.sleep(0.05)
        yield url
        server.terminate()


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yields a store's URL. Address and credentials are in the environment variables of the store's library."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    files.mkdir(BUCKET)
    yield f"s3://{BUCKET}/lora"
    files.rm(BUCKET, recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_version_is_uploaded_to_s3_and_downloaded_on_another_machine(
    bucket: str, base: BaseModelSpec, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    folder = make_adapter()
    (folder / "samples.jsonl").write_text('{"messages": [{"role": "user", "content": "Hello"}], "answer": "Hi"}')
    version = ArtifactStore(bucket, base, 8, cache_folder=tmp_path / "here").add("triage", folder, {"seed": "7"})
    elsewhere = ArtifactStore(bucket, base, 8, cache_folder=tmp_path / "elsewhere")

    fetched = elsewhere.fetch(version)

    assert fetched.is_relative_to(tmp_path / "elsewhere")
    assert content_hash(fetched) == version.sha256
    assert elsewhere.samples(version)[0].answer == "Hi"
    assert sorted(Path(path).name for path in s3fs.S3FileSystem().find(f"{bucket}/triage")) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
        "samples.jsonl",
    ]


def test_changes_in_the_bucket_are_detected_at_once(
    bucket: str, base: BaseModelSpec, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    first, second = (ArtifactStore(bucket, base, 8, cache_folder=tmp_path / name) for name in "ab")
    version = first.add("triage", make_adapter(), {})
    with pytest.raises(NotFound):
        second.fetch(replace(version, name="other"))

    assert second.fetch(version).is_dir()
    second.delete(version)

    assert s3fs.S3FileSystem().find(bucket) == []
    with pytest.raises(NotFound):
        second.fetch(version)
    first.add("triage", make_adapter(), {})
    assert content_hash(second.fetch(version)) == version.sha256


def test_a_modified_object_is_not_returned_and_registering_again_repairs_it(
    bucket: str, base: BaseModelSpec, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    store = ArtifactStore(bucket, base, 8, cache_folder=tmp_path / "here")
    version = store.add("triage", make_adapter(), {})
    path = f"{bucket}/triage/{version.sha256[:12]}/adapter_model.safetensors"
    s3fs.S3FileSystem().pipe_file(path, b"other bytes")

    with pytest.raises(FailedPrecondition):
        ArtifactStore(bucket, base, 8, cache_folder=tmp_path / "b").fetch(version)
    store.add("triage", make_adapter(), {})

    assert content_hash(ArtifactStore(bucket, base, 8, cache_folder=tmp_path / "c").fetch(version)) == version.sha256


def test_an_unreachable_service_is_unavailable(
    bucket: str, base: BaseModelSpec, make_adapter: MakeAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = ArtifactStore(bucket, base, 8, cache_folder=tmp_path / "here")

    with pytest.raises(Unavailable) as caught:
        store.add("triage", make_adapter(), {})

    assert caught.value.code == "store_unavailable"


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def test_a_base_model_is_fetched_from_a_bucket_once(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files, url, folder = s3fs.S3FileSystem(), f"s3://{BUCKET}/models/tiny", tmp_path / "base-model"
    files.pipe({f"{url}/config.json": b"{}", f"{url}/tokenizer/vocab.txt": b"a"})

    assert fetch_model.main([url, str(folder)]) == 0
    assert (folder / "config.json").read_bytes() == b"{}"
    assert (folder / "tokenizer" / "vocab.txt").read_bytes() == b"a"

    files.rm(url, recursive=True)
    assert fetch_model.main([url, str(folder)]) == 0
    assert f"already holds {url}" in capsys.readouterr().out


def test_an_interrupted_copy_goes_on_without_what_is_there_or_unneeded(bucket: str, tmp_path: Path) -> None:
    files, url = s3fs.S3FileSystem(), f"{BUCKET}/models/tiny"
    content = {"config.json": b"{}", "a.safetensors": b"12345", "b.safetensors": b"12345", "original/a.pth": b"1"}
    files.pipe({f"{url}/{name}": data for name, data in content.items()})
    (tmp_path / "a.safetensors").write_bytes(b"abcde")  # of the same size: not copied again
    (tmp_path / "b.safetensors").write_bytes(b"123")

    assert fetch_model.fetch(f"s3://{url}", tmp_path)

    assert (tmp_path / "a.safetensors").read_bytes() == b"abcde"
    assert (tmp_path / "b.safetensors").read_bytes() == b"12345"
    assert not (tmp_path / "original").exists()


@pytest.mark.parametrize(("name", "reason"), [("nowhere", "is no folder"), ("readme", "there is no config.json")])
def test_what_is_no_model_is_not_taken_for_complete(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, reason: str
) -> None:
    s3fs.S3FileSystem().pipe_file(f"{BUCKET}/readme/README.md", b"#")
    assert fetch_model.main([f"s3://{BUCKET}/{name}", str(tmp_path)]) == 1
    assert reason in capsys.readouterr().err
    assert not (tmp_path / fetch_model.MARKER).exists()
