"""An engine on another machine reads only the files that a version's digest names, and can be sent them."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from pointsman_lora_server.engine.command import SECRET_HEADER
from pointsman_lora_server.engine.guard.pointsman_engine_guard import adapter_files
from pointsman_lora_server.engine.guard.pointsman_engine_guard.adapter_files import STORE_VARIABLE
from pointsman_lora_server.engine.guard.pointsman_engine_guard.adapter_table import Refused
from pointsman_lora_server.engine.remote_store_client import SendingClient, SharedStoreClient
from pointsman_lora_server.engine.vllm_client import VllmClient, open_client
from pointsman_lora_server.engine_bootstrap import open_engine, path_at_engine
from pointsman_lora_server.settings import Settings
from pointsman_lora_server.store import layout
from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument
from pydantic import SecretStr

from tests.lora_server.test_engine_guard import ADAPTERS, SECRET, Vllm
from tests.ports import free_port

CONFIG, WEIGHTS = layout.HASHED


@pytest.fixture
async def vllm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[tuple[Vllm, str]]:
    """Yields a double of vLLM behind the guard, and its URL."""
    monkeypatch.setenv("POINTSMAN_ENGINE_SECRET", SECRET[SECRET_HEADER])
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path / "engine"))
    double, port = Vllm(), free_port()
    server = uvicorn.Server(uvicorn.Config(double, port=port, log_level="warning", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
        await asyncio.sleep(0.01)
    yield double, f"http://127.0.0.1:{port}"
    server.should_exit = True
    await serving


@asynccontextmanager
async def connected(kind: Callable[..., VllmClient], url: str) -> AsyncIterator[VllmClient]:
    async with open_client(url, lambda: SECRET[SECRET_HEADER], create=kind) as client:
        yield client


def version_in(folder: Path, weights: bytes = b"weights") -> str:
    """Writes an adapter's files; returns the name of the version."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps({"r": 8}))
    (folder / WEIGHTS).write_bytes(weights)
    return f"triage@{layout.content_hash(folder)[:12]}"


def content(folder: str) -> list[bytes]:
    return [(Path(folder) / name).read_bytes() for name in layout.HASHED]


async def test_an_engine_without_the_store_is_sent_a_versions_files(vllm: tuple[Vllm, str], tmp_path: Path) -> None:
    double, url = vllm
    folder = tmp_path / "store"
    version = version_in(folder, b"w" * 3_000_000)
    async with connected(SendingClient, url) as client:
        await client.load(version, folder)
        (at_engine,) = double.state.engine_client.loras.values()
        assert Path(at_engine).parent == tmp_path / "engine"
        assert content(at_engine) == content(str(folder))

        (folder / WEIGHTS).unlink()
        await client.close_adapter(version)
        await client.load(version, folder)  # the engine still holds it, so nothing is sent
        assert (await client.list_adapters())[version].open

        await client.remove(version)
        assert list((tmp_path / "engine").iterdir()) == []
        with pytest.raises(FileNotFoundError):
            await client.load(version, folder)


async def test_files_that_were_sent_before_but_changed_are_sent_again(vllm: tuple[Vllm, str], tmp_path: Path) -> None:
    double, url = vllm
    version = version_in(tmp_path / "store")
    version_in(tmp_path / "engine" / version, b"half of the weig")
    async with connected(SendingClient, url) as client:
        await client.load(version, tmp_path / "store")
    (at_engine,) = double.state.engine_client.loras.values()
    assert content(at_engine) == content(str(tmp_path / "store"))


async def test_other_files_in_a_shared_store_are_not_read(vllm: tuple[Vllm, str], tmp_path: Path) -> None:
    double, url = vllm
    here, there = tmp_path / "here" / "v", tmp_path / "there" / "v"
    version, other = version_in(here), version_in(there, b"other weights")
    shared = partial(SharedStoreClient, engine_path=partial(path_at_engine, tmp_path / "here", str(tmp_path / "there")))
    async with connected(shared, url) as client:
        with pytest.raises(FailedPrecondition, match="is another store mounted there") as caught:
            await client.load(version, here)
        assert caught.value.code == "engine_store"
        assert version.partition("@")[2] in caught.value.message
        assert other.partition("@")[2] in caught.value.message
        assert double.state.engine_client.loras == {}

        version_in(there)
        await client.load(version, here)
        assert list(double.state.engine_client.loras.values()) == [str(there)]

        (there / WEIGHTS).unlink()
        with pytest.raises(FailedPrecondition, match="the engine finds no"):
            await client.load(other, here)


def put(name: str, file: str = CONFIG) -> str:
    return f"{ADAPTERS}/{name}/files/{file}"


async def test_only_an_adapters_files_are_received_and_only_with_the_secret(
    vllm: tuple[Vllm, str], tmp_path: Path
) -> None:
    async with httpx.AsyncClient(base_url=vllm[1]) as http:
        assert (await http.put(put("a@1"), content=b"{}")).status_code == 403
        for url in (put("a@1", "run.py"), put("a@1", "..%2Fx"), put("..%2Fa"), put("a%00")):
            assert (await http.put(url, content=b"{}", headers=SECRET)).status_code in (404, 422), url
        order = {"folder": None}
        assert (await http.put(f"{ADAPTERS}/a@1", json=order, headers=SECRET)).status_code == 422
        assert (await http.put(f"{ADAPTERS}/a@1", json=order | {"sha256": "a"}, headers=SECRET)).status_code == 424
        assert (await http.put(put("a@1"), content=b"{}", headers=SECRET)).status_code == 200
    assert [path.name for path in (tmp_path / "engine").rglob("*")] == ["a@1", CONFIG]


async def test_an_interrupted_file_leaves_nothing_behind(vllm: tuple[Vllm, str], tmp_path: Path) -> None:
    received = adapter_files.ReceivedAdapters({STORE_VARIABLE: str(tmp_path / "engine")})
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"{", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    with pytest.raises(Refused):
        await received.receive("a@1", CONFIG, receive)
    assert messages == []
    assert list((tmp_path / "engine" / "a@1").iterdir()) == []


async def test_an_engine_that_is_sent_nothing_writes_nothing(
    vllm: tuple[Vllm, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    double, url = vllm
    monkeypatch.delenv(STORE_VARIABLE)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    double.guard = Vllm().guard
    version = version_in(tmp_path / "v")
    async with connected(SharedStoreClient, url) as client:
        await client.load(version, tmp_path / "v")
        await client.remove(version)  # the temporary folder does not exist, so creating one there would fail
        assert await client.list_adapters() == {}


async def test_a_version_that_the_engine_rejects_is_rejected(vllm: tuple[Vllm, str], tmp_path: Path) -> None:
    """The double rejects a folder with "bad" in its path."""
    version_in(tmp_path / "bad")
    async with connected(SharedStoreClient, vllm[1]) as client:
        with pytest.raises(InvalidArgument, match="cannot merge"):
            await client.load("a@1", tmp_path / "bad")


def test_the_guard_and_the_store_agree_on_a_versions_digest(tmp_path: Path) -> None:
    assert adapter_files.HASHED_FILES == layout.HASHED
    version_in(tmp_path)
    assert adapter_files.content_hash(tmp_path) == layout.content_hash(tmp_path)


@pytest.mark.parametrize(("files", "kind"), [("shared", SharedStoreClient), ("sent", SendingClient)])
async def test_the_setting_chooses_how_the_engine_gets_files(files: Any, kind: type[VllmClient]) -> None:
    settings = Settings(engine_url="http://vllm:8000", engine_secret=SecretStr("x" * 16), engine_files=files)
    async with open_engine(settings, None, lambda: "") as client:  # type: ignore[arg-type]  # not used
        assert type(client) is kind
