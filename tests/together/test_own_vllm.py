"""Pointsman in front of a vLLM that somebody else has started, with adapters by `--lora-modules` and at run time."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.lora_server.conftest import Valkey
from tests.lora_server.server_process import ServerProcess
from tests.ports import free_port
from tests.running_example import EXAMPLE, POINTSMAN, ROOT, run_example

MINIMAL = ROOT / "examples" / "minimal"
BASE, PROVIDED = "llama-3.1-8b", "gpt-4o-mini"
"""The names in the minimal example. One vLLM serves its model under both names, so it also stands for the provider."""
LETTER = "Larkmoor Railway"
"""The first words of the letters that the adapter "voice" writes."""
LOST = "I left my umbrella on the 9:15 to Saltby, please look for it"
MAX_START_SECONDS = 240
MAX_DISCOVERY_SECONDS = 30


@dataclass(frozen=True)
class OwnVllm:
    url: str

    def models(self) -> set[str]:
        return {model["id"] for model in httpx.get(f"{self.url}/v1/models", timeout=10).json()["data"]}


def ask(url: str, model: str, **more: Any) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": LOST}], "temperature": 0, "max_tokens": 24}
    response = httpx.post(f"{url}/v1/chat/completions", json=body | more, timeout=120)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def text_of(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


@pytest.fixture(scope="module")
def own_vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnVllm]:
    port, log = free_port(), tmp_path_factory.mktemp("vllm") / "vllm.log"
    command = [
        # What `vllm serve` runs; that program itself does not find its version in the wheel for CPUs.
        *(str(ROOT / ".venv-engine/bin/python"), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(ROOT / ".pointsman/models/smollm2-135m")),
        *("--served-model-name", BASE, PROVIDED, "--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "float32", "--max-model-len", "2048", "--enable-lora", "--max-loras", "2", "--max-lora-rank", "8"),
        *("--lora-modules", f"triage={EXAMPLE / 'adapters/triage'}"),
    ]
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    }
    with log.open("wb") as output:
        vllm = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    own = OwnVllm(f"http://127.0.0.1:{port}")
    try:
        deadline = time.monotonic() + MAX_START_SECONDS
        while not _is_healthy(own.url):
            assert vllm.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.5)
        yield own
    finally:
        vllm.send_signal(signal.SIGTERM)
        vllm.wait(timeout=60)


def _is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def pointsman_before(own: OwnVllm, home: Path) -> Iterator[str]:
    environment = {"VLLM_URL": own.url, "OPENAI_URL": own.url, "OPENAI_API_KEY": "any"}
    with run_example(MINIMAL, home, environment) as running:
        assert set(running.run["processes"]) <= {"gateway", "valkey", "retriever"}
        yield running.url


def test_the_minimal_example_serves_the_adapters_of_a_vllm_that_runs_already(own_vllm: OwnVllm, tmp_path: Path) -> None:
    with pointsman_before(own_vllm, tmp_path / "home") as url:
        by_path, direct = ask(url, "path:triage"), ask(own_vllm.url, "triage")
        assert text_of(by_path) == text_of(direct)
        assert text_of(by_path) != text_of(ask(own_vllm.url, BASE))
        assert (by_path["pointsman"]["kind"], by_path["pointsman"]["path"]) == ("lora", "triage")
        assert text_of(ask(url, "triage")) == text_of(direct)

        assert ask(url, "auto")["pointsman"]["path"] == "triage"

        voice = {"lora_name": "voice", "lora_path": str(EXAMPLE / "adapters/voice")}
        httpx.post(f"{own_vllm.url}/v1/load_lora_adapter", json=voice, timeout=120).raise_for_status()
        _wait_until_listed(url, "voice")
        assert text_of(ask(url, "voice")) == text_of(ask(own_vllm.url, "voice"))


def _wait_until_listed(url: str, adapter: str) -> None:
    deadline = time.monotonic() + MAX_DISCOVERY_SECONDS
    while adapter not in OwnVllm(url).models():
        assert time.monotonic() < deadline, f"{adapter} was not discovered"
        time.sleep(0.2)


def test_the_doctor_checks_an_own_vllm(own_vllm: OwnVllm) -> None:
    environment = os.environ | {"VLLM_URL": own_vllm.url, "OPENAI_URL": own_vllm.url, "OPENAI_API_KEY": "any"}
    command = [str(POINTSMAN), "doctor", str(MINIMAL), "--engine", "mine"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "triage" in done.stdout


def test_up_needs_nothing_but_the_url_of_an_own_vllm(own_vllm: OwnVllm, tmp_path: Path) -> None:
    with run_example(("--engine", own_vllm.url), tmp_path / "home") as running:
        assert text_of(ask(running.url, "auto"))
        assert {BASE, "triage"} <= OwnVllm(running.url).models()


async def test_a_lora_server_attaches_to_an_own_vllm_without_the_guard(own_vllm: OwnVllm, tmp_path: Path) -> None:
    (tmp_path / "valkey").mkdir()
    valkey = Valkey(tmp_path / "valkey")
    valkey.start()
    settings = {"ENGINE_LISTEN": "", "ENGINE_URL": own_vllm.url, "SERVED_MODEL_NAME": BASE, "SMOKE_TEST": "off"}
    base = ROOT / ".pointsman/models/smollm2-135m"
    server = ServerProcess(tmp_path / "server", base, "own", valkey.url, tmp_path / "store", more=settings)
    try:
        await server.start_with_engine()
        first = await server.register("desk", EXAMPLE / "adapters/triage", "live")
        second = await server.register("desk", EXAMPLE / "adapters/voice")
        assert text_of(ask(own_vllm.url, first.version)) == text_of(ask(own_vllm.url, "triage"))
        assert (await server.promote("desk@live", second.version)).version == second.version
        assert LETTER in text_of(ask(own_vllm.url, second.version))
        await server.kill()

        # It takes over what the engine holds, and unloads only what nothing points to.
        await server.start_with_engine()
        await server.until_state("desk", "serving")
        assert second.version in own_vllm.models()
        assert LETTER in text_of(ask(own_vllm.url, second.version))
    finally:
        await server.kill()
        valkey.stop()
