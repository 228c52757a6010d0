"""Adapters that are registered by a URL: from S3 (moto's server), and from a double of the Hugging Face hub that the
hub's own client library calls.
"""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pointsman_lora_server.checks.base_layers import BaseModelSpec, read_base
from pointsman_lora_server.store import ArtifactStore
from pointsman_servicekit.errors import InvalidArgument, NotFound, PointsmanError, Unavailable

from tests.lora_server.server_process import MakeAdapter
from tests.lora_server.test_store_limits import add_to_full_disk
from tests.lora_server.test_store_s3 import bucket, s3  # noqa: F401  # fixtures
from tests.lora_server.tiny_adapters import BASE_NAME
from tests.ports import free_port

pytest.importorskip("huggingface_hub", reason="pip install pointsman-lora-server[hf]")

COMMIT = "c0ffee" * 6 + "c0ff"


class Hub(ThreadingHTTPServer):
    """A server of repositories, like the hub's route `/OWNER/NAME/resolve/REVISION/FILE`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _HubAnswers)
        self.repositories: dict[str, Path] = {}
        self.gated: set[str] = set()


class _HubAnswers(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, *, with_body: bool) -> None:
        owner, name, _, revision, *path = self.path.strip("/").split("?")[0].split("/")
        repository = f"{owner}/{name}"
        folder = self.server.repositories.get(repository)
        if repository in self.server.gated:
            self._refuse(403, "GatedRepo")
        elif folder is None:
            self._refuse(401, "RepoNotFound")
        elif revision not in ("main", "v2", COMMIT):
            self._refuse(404, "RevisionNotFound")
        elif not folder.joinpath(*path).is_file():
            self._refuse(404, "EntryNotFound")
        else:
            file = folder.joinpath(*path)
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(self.path.encode()).hexdigest()}"')
            self.send_header("Content-Length", str(file.stat().st_size))
            self.end_headers()
            if with_body:
                self.wfile.write(file.read_bytes())

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def store(tmp_path: Path, base: BaseModelSpec) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store", base, 8)


def refusal(store: ArtifactStore, source: str) -> PointsmanError:
    with pytest.raises(PointsmanError) as caught:
        store.add("triage", source, {})
    return caught.value


@pytest.mark.parametrize("suffix", ["", "@v2", "@v2/nested/folder"])
def test_an_adapter_of_the_hub_is_the_same_version_as_its_folder(
    hub: Hub, store: ArtifactStore, make_adapter: MakeAdapter, suffix: str
) -> None:
    folder = make_adapter("nested/folder" if "nested" in suffix else "adapter")
    hub.repositories["acme/triage"] = folder.parents[1] if "nested" in suffix else folder

    version = store.add("triage", f"hf://acme/triage{suffix}", {})

    assert version.version == store.add("triage", folder, {}).version
    assert version.facts["source"] == f"hf://acme/triage{suffix}"


def test_a_mistyped_name_at_the_hub_is_named(hub: Hub, store: ArtifactStore, make_adapter: MakeAdapter) -> None:
    hub.repositories["acme/triage"] = make_adapter()
    hub.gated.add("acme/secret")

    mistyped = refusal(store, "hf://acme/triaje")
    assert (type(mistyped), mistyped.code) == (NotFound, "unknown_source")
    assert "has no model 'acme/triaje'" in mistyped.message
    assert refusal(store, "hf://acme/triage@v3").code == "unknown_source"
    assert "accept its licence" in refusal(store, "hf://acme/secret").message
    assert "OWNER/NAME" in refusal(store, "hf://acme").message
    assert refusal(store, "hf://acme/a..b").code == "bad_source"


def test_a_repository_without_an_adapter_says_what_is_missing(
    hub: Hub, store: ArtifactStore, make_adapter: MakeAdapter, base_folder: Path
) -> None:
    hub.repositories["acme/model"] = base_folder
    hub.repositories["acme/pickled"] = make_adapter("pickled")
    (hub.repositories["acme/pickled"] / "adapter_model.safetensors").unlink()

    assert "holds no adapter_config.json" in refusal(store, "hf://acme/model").message
    assert "holds no adapter_model.safetensors" in refusal(store, "hf://acme/pickled").message


def test_too_large_weights_are_not_downloaded(hub: Hub, store: ArtifactStore, make_adapter: MakeAdapter) -> None:
    hub.repositories["acme/triage"] = folder = make_adapter()
    with (folder / "adapter_model.safetensors").open("ab") as file:
        file.truncate(1 << 30)

    assert refusal(store, "hf://acme/triage").code == "too_large"


def test_an_unreachable_hub_is_no_fault_of_the_adapter(monkeypatch: pytest.MonkeyPatch, store: ArtifactStore) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")

    error = refusal(store, "hf://acme/triage")

    assert (type(error), error.code) == (Unavailable, "hub_unreachable")
    assert "not reachable" in error.message


def test_a_full_disk_during_a_download_from_the_hub_is_reported(
    hub: Hub, tmp_path: Path, base_folder: Path, make_adapter: MakeAdapter
) -> None:
    hub.repositories["acme/triage"] = folder = make_adapter()

    family, code, message = add_to_full_disk(tmp_path / "store", base_folder, "hf://acme/triage", folder)

    assert (family, code) == ("ResourceExhausted", "store_full")
    assert str(tmp_path / "store") in message


def test_an_adapter_of_another_base_model_is_rejected_and_one_under_another_name_may_be_allowed(
    hub: Hub, store: ArtifactStore, make_adapter: MakeAdapter, base_folder: Path, tmp_path: Path
) -> None:
    hub.repositories["acme/triage"] = make_adapter(config={"base_model_name_or_path": "acme/Tiny-Instruct"})

    error = refusal(store, "hf://acme/triage")
    assert error.code == "wrong_base_model"
    assert "'acme/Tiny-Instruct'" in error.message
    assert "POINTSMAN_LORA_BASE_MODEL_NAMES" in error.message

    base = read_base(base_folder, BASE_NAME, {"acme/Tiny-Instruct"})
    ArtifactStore(tmp_path / "other", base, 8).add("triage", "hf://acme/triage", {})


@pytest.mark.parametrize("source", ["file:///etc", "http://127.0.0.1/x", "memory://x", "github://a:b@/x"])
def test_other_kinds_of_url_are_refused(store: ArtifactStore, source: str) -> None:
    error = refusal(store, source)

    assert (type(error), error.code) == (InvalidArgument, "bad_source")


def test_an_adapter_in_a_bucket_is_the_same_version_as_its_folder(
    bucket: str,  # noqa: F811  # the fixture
    store: ArtifactStore,
    make_adapter: MakeAdapter,
) -> None:
    s3fs = pytest.importorskip("s3fs")
    folder = make_adapter()
    s3fs.S3FileSystem().put(str(folder), f"{bucket}/mine", recursive=True)

    version = store.add("triage", f"{bucket}/mine", {})

    assert version.version == store.add("triage", folder, {}).version
    assert "holds no adapter_config.json" in refusal(store, f"{bucket}/other").message


def test_a_full_disk_during_a_download_from_a_bucket_is_reported(
    bucket: str,  # noqa: F811  # the fixture
    tmp_path: Path,
    base_folder: Path,
    make_adapter: MakeAdapter,
) -> None:
    s3fs = pytest.importorskip("s3fs")
    folder = make_adapter()
    s3fs.S3FileSystem().put(str(folder), f"{bucket}/mine", recursive=True)

    family, code, _ = add_to_full_disk(tmp_path / "store", base_folder, f"{bucket}/mine", folder)

    assert (family, code) == ("ResourceExhausted", "store_full")
