"""Fixtures for the swap test: adapters for the engine's double, and the double as a process."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.ports import free_port

ROOT = Path(__file__).parents[3]
DOUBLE, GUARDED = "tests.cli.conformance.swap_double", "tests.cli.conformance.guarded_double"
SECRET = "a-secret-for-the-double"
KEY = "a-key-for-the-double"
HIDDEN, RANK = 8, 2
Q, V = (f"base_model.model.model.layers.0.self_attn.{name}_proj.lora_" for name in "qv")


@dataclass(frozen=True)
class Double:
    url: str
    process: "subprocess.Popen[bytes]"

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=60) as response:
            return json.load(response)

    def models(self) -> list[str]:
        return [model["id"] for model in self.get("/v1/models")["data"]]

    def sent(self) -> list[str]:
        sent: list[str] = self.get("/sent")
        return sent

    def load(self, name: str, folder: Path) -> None:
        body = json.dumps({"lora_name": name, "lora_path": str(folder)}).encode()
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        request = urllib.request.Request(f"{self.url}/v1/load_lora_adapter", body, headers)
        urllib.request.urlopen(request, timeout=60).close()

    @property
    def restart_command(self) -> str:
        code = f"import urllib.request as u; u.urlopen(u.Request('{self.url}/restart', method='POST'))"
        return f'{sys.executable} -c "{code}"'


StartDouble = Callable[..., AbstractContextManager[Double]]
QUICK = ("--load-seconds", "4", "--timeout", "60")


def swap_options(double: Double, shelf: Path, *more: object) -> list[object]:
    """Returns the arguments of a quick swap test against the double."""
    return ["conformance", "swap", "--against", double.url, "--adapters", shelf, *QUICK, *more]


def verdicts(document: dict[str, Any]) -> dict[str, str]:
    return {each["property"]: each["verdict"] for each in document["properties"]}


def failed(document: dict[str, Any]) -> set[str]:
    return {name for name, verdict in verdicts(document).items() if verdict == "fail"}


@pytest.fixture
def start_double(monkeypatch: pytest.MonkeyPatch) -> StartDouble:
    """Runs a double with a fault, and sets the key and the secret that it needs for the command."""
    monkeypatch.setenv("POINTSMAN_API_KEY", KEY)

    monkeypatch.setenv("POINTSMAN_ENGINE_SECRET", SECRET)

    @contextmanager
    def start(fault: str = "", *options: str, module: str = DOUBLE) -> Iterator[Double]:
        port = free_port()
        command = [sys.executable, "-m", module, "--port", str(port), "--fault", fault, *options]
        with subprocess.Popen(command, env=os.environ | {"VLLM_API_KEY": KEY}, cwd=ROOT) as process:
            double = Double(f"http://127.0.0.1:{port}", process)
            try:
                _wait_until_it_answers(double)
                yield double
            finally:
                process.kill()

    return start


def _wait_until_it_answers(double: Double) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            double.models()
        except urllib.error.URLError:
            assert time.monotonic() < deadline
            assert double.process.poll() is None
            time.sleep(0.05)
        else:
            return


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    return make_shelf(tmp_path / "adapters")


def make_shelf(folder: Path, seed: int = 0) -> Path:
    """Writes a folder like that of `make_adapters.py`, for the doubles' base model; returns it."""
    made = folder / "made"
    versions = [_weights(100 * seed + number) for number in range(10)]
    for number, weights in enumerate(versions):
        _write(made / f"version-{number}", weights)
    first = versions[0]
    _write(made / "other-names", {name.replace(".layers.", ".strata."): value for name, value in first.items()})
    _write(made / "smaller-shapes", {name: value[..., : HIDDEN // 2] for name, value in first.items()})
    _write(made / "half-broken", first | {f"{V}B.weight": np.concatenate([first[f"{V}B.weight"]] * 2)})
    _write(made / "nan", {name: np.full_like(value, np.nan) for name, value in first.items()})
    (made / "adapters.json").write_text(json.dumps({"versions": len(versions)}))
    return made.parent


def _weights(seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    weights = {}
    for module in (Q, V):
        weights[f"{module}A.weight"] = random.standard_normal((RANK, HIDDEN)).astype(np.float32)
        weights[f"{module}B.weight"] = random.standard_normal((HIDDEN, RANK)).astype(np.float32)
    return weights


def _write(folder: Path, weights: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    save_file(
        {name: np.ascontiguousarray(value) for name, value in weights.items()}, folder / "adapter_model.safetensors"
    )
    (folder / "adapter_config.json").write_text("{}")
