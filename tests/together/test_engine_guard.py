"""The real vLLM behind its guard: access control, control of its adapter slots, and detection of corrupted answers."""

import asyncio
import json
import logging
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
from pointsman_lora_server.checks.base_layers import read_base
from pointsman_lora_server.domain import EngineStatus
from pointsman_lora_server.engine import vllm_client
from pointsman_lora_server.engine.command import (
    SECRET_HEADER,
    EngineSettings,
    GuardSecret,
    build_command,
    choose_dtype,
    with_secrets,
)
from pointsman_lora_server.engine.completion import EngineCorrupted, Probe
from pointsman_lora_server.engine.supervisor import Supervisor
from pointsman_lora_server.engine.vllm_client import VllmClient
from pointsman_lora_server.engine_state import EngineStateStore
from pointsman_lora_server.machine import cpu_flags, has_gpu
from pointsman_servicekit.errors import ResourceExhausted
from safetensors.numpy import save_file

from tests.ports import free_address

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[2]
ENGINE_PYTHON = Path(os.environ.get("POINTSMAN_ENGINE_PYTHON", ROOT / ".venv-engine/bin/python"))
BASE_MODEL = ROOT / ".pointsman" / "models" / "smollm2-135m"
NAME = "smollm2-135m"
PROMPT = "The capital of France is"
SLOTS, IN_A_BATCH = 3, 2
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
TOKENS = 4
ENGINE_STARTS = 300
"""Time limit of a start in seconds; a start usually takes 30 on two idle cores."""

# vLLM 0.32's own routes, including those of its development mode, that change the engine or bypass the guard.
CLOSED = [
    *("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/adapters", "/adapters/x", "/invocations"),
    *("/openapi.json", "/docs", "/redoc", "/static", "/tokenizer_info", "/kv_event_sources"),
    *("/server_info", "/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache"),
    *("/collective_rpc", "/sleep", "/wake_up", "/is_sleeping", "/release_kv_cache_memory", "/pause"),
    *("/resume", "/is_paused", "/abort_requests", "/update_weights", "/init_weight_transfer_engine"),
    *("/weight_info", "/weight_checker", "/start_profile", "/stop_profile", "/scale_elastic_ep"),
    *("/is_scaling_elastic_ep", "/inference/v1/generate", "/inference/v1/abort_requests"),
    *("/fault_tolerance/status", "/v1/chat/completions/render", "/v1/completions/render"),
    *("/v1/chat/completions/batch", "/classify", "/score", "/rerank", "/pooling"),
]


@dataclass
class GuardedEngine:
    """A real vLLM with the guard, and the parts of the lora-server that start, watch and probe it."""

    url: str
    secret: GuardSecret
    engine: VllmClient
    http: httpx.AsyncClient
    engine_state: EngineStateStore
    probe: Probe
    supervisor: Supervisor
    running: "asyncio.Task[None]"
    probes_failed: int = 0

    async def until_ready(self, life: int) -> None:
        async with asyncio.timeout(ENGINE_STARTS):
            async for state in self.engine_state.watch():
                if state.status is EngineStatus.READY and state.life == life:
                    return

    async def text(self, model: str) -> str:
        return (await self.engine.complete(model, PROMPT, TOKENS)).text

    async def report(self) -> dict[str, Any]:
        answer = await self.http.get("/pointsman/v1/adapters", headers={SECRET_HEADER: self.secret()})
        report: dict[str, Any] = answer.raise_for_status().json()
        return report

    async def empty(self) -> None:
        for version in await self.engine.list_adapters():
            await self.engine.close_adapter(version)
            assert await self.engine.remove(version)


class Meter:
    failed = 0

    def count_probe_failure(self) -> None:
        self.failed += 1


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded() -> AsyncIterator[GuardedEngine]:
    _make_base_model()
    logging.getLogger("engine").setLevel(logging.INFO)
    listen, secret, engine_state, meter = free_address(), GuardSecret(), EngineStateStore(), Meter()
    settings = EngineSettings(
        *(ENGINE_PYTHON, listen, BASE_MODEL, NAME, SLOTS, IN_A_BATCH, 8, 512),
        dtype=choose_dtype("auto", cpu_flags(), has_gpu()),
    )
    lives = with_secrets(build_command(settings, os.environ, os.sched_getaffinity(0)), secret)
    url = f"http://{listen}"
    async with (
        vllm_client.open_client(url, secret) as engine,
        httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as http,
    ):
        probe = Probe(engine, NAME, meter.count_probe_failure)
        supervisor = Supervisor(
            next_command=lives, listen=listen, client=engine, engine_state=engine_state, probe=probe, probe_interval=600
        )
        running = asyncio.create_task(supervisor.run())
        guarded = GuardedEngine(url, secret, engine, http, engine_state, probe, supervisor, running)
        try:
            await guarded.until_ready(life=1)
            yield guarded
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Returns more adapters than the engine has slots. They are random and strong, so that their texts are distinct."""
    return [_adapter(tmp_path_factory.mktemp("loud"), seed) for seed in range(2 * SLOTS)]


async def test_routes_that_change_the_engine_are_disabled(guarded: GuardedEngine) -> None:
    for headers in ({}, {SECRET_HEADER: guarded.secret()}):
        for path in CLOSED:
            for method in ("GET", "POST"):
                answer = await guarded.http.request(
                    method, path, headers=headers, json={"lora_name": "x", "lora_path": "/"}
                )
                assert (path, method, answer.status_code) == (path, method, 404)


async def test_the_guards_own_routes_are_for_the_lora_server_only(guarded: GuardedEngine, loud: list[Path]) -> None:
    for headers in ({}, {SECRET_HEADER: "guessed"}):
        answers = [
            await guarded.http.get("/pointsman/v1/adapters", headers=headers),
            await guarded.http.put("/pointsman/v1/adapters/x@1", headers=headers, json={"folder": str(loud[0])}),
            await guarded.http.post("/pointsman/v1/adapters/x@1/close", headers=headers),
            await guarded.http.delete("/pointsman/v1/adapters/x@1", headers=headers),
        ]
        assert {answer.status_code for answer in answers} == {403}
    assert await guarded.engine.list_adapters() == {}


async def test_no_request_loads_an_adapter_by_its_path(guarded: GuardedEngine, loud: list[Path]) -> None:
    for model in (str(loud[0]), f"../{loud[0].name}", f"../../..{loud[0]}"):
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
        answer = await guarded.http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 404
        assert answer.json()["error"]["param"] == "model"
    assert (await guarded.report())["in_engine"] == 0


async def test_public_answers_contain_no_paths(guarded: GuardedEngine, loud: list[Path]) -> None:
    await guarded.engine.load("a@1", loud[0])
    await guarded.text("a@1")

    models = await guarded.http.get("/v1/models")
    pages = [models, *[await guarded.http.get(path) for path in ("/metrics", "/version", "/load", "/health")]]

    assert [model["id"] for model in models.json()["data"]] == [NAME, "a@1"]
    assert "/" not in models.text
    for answer in pages:
        assert answer.status_code == 200
        assert str(BASE_MODEL) not in answer.text
        assert str(loud[0]) not in answer.text
    await guarded.empty()


async def test_a_removed_version_frees_its_slot_and_each_version_uses_its_own_weights(
    guarded: GuardedEngine, loud: list[Path]
) -> None:
    """Loads twice as many adapters as there are slots, two times; the second time, they get the ids and slots of
    others.
    """
    texts: dict[int, str] = {}
    held: list[int] = []
    for number in [*range(2 * SLOTS), *reversed(range(2 * SLOTS))]:
        if len(held) == SLOTS - 1:  # the last slot stays free: see the CPU's mixed batches
            oldest = f"a@{held.pop(0)}"
            assert await guarded.engine.close_adapter(oldest) == 0
            assert await guarded.engine.remove(oldest)
        if number not in held:
            await guarded.engine.load(f"a@{number}", loud[number])
            held.append(number)
        text = await guarded.text(f"a@{number}")
        assert texts.setdefault(number, text) == text
        report = await guarded.report()
        assert report["in_engine"] == len(report["adapters"]) == len(held)
    assert len(set(texts.values())) == 2 * SLOTS
    assert all("Paris" not in text for text in texts.values())
    assert "Paris" in await guarded.text(NAME)
    await guarded.empty()


async def test_a_full_engine_rejects_loads_and_evicts_nothing(guarded: GuardedEngine, loud: list[Path]) -> None:
    for number in range(SLOTS):
        await guarded.engine.load(f"a@{number}", loud[number])

    with pytest.raises(ResourceExhausted):
        await guarded.engine.load("one@more", loud[SLOTS])

    assert sorted(await guarded.engine.list_adapters()) == [f"a@{number}" for number in range(SLOTS)]
    assert (await guarded.report())["in_engine"] == SLOTS
    await guarded.empty()


async def test_answers_in_flight_keep_their_slot_until_they_end(guarded: GuardedEngine, loud: list[Path]) -> None:
    await guarded.engine.load("a@0", loud[0])
    whole = await _streamed(guarded, "a@0")

    begun = asyncio.Event()
    answer = asyncio.create_task(_streamed(guarded, "a@0", begun))
    await begun.wait()
    assert await guarded.engine.close_adapter("a@0") == 1
    late = await guarded.http.post("/v1/completions", json={"model": "a@0", "prompt": PROMPT})
    assert (late.status_code, late.json()["error"]["type"]) == (404, "NotFoundError")
    assert not await guarded.engine.remove("a@0")
    assert not (await guarded.engine.list_adapters())["a@0"].open
    assert not answer.done()

    assert await answer == whole
    # The last byte is sent shortly before the server releases the request.
    async with asyncio.timeout(20):
        while not await guarded.engine.remove("a@0"):  # noqa: ASYNC110 -- another process
            await asyncio.sleep(0.05)
    assert (await guarded.report())["in_engine"] == 0


async def test_a_closed_adapter_is_reopened_without_its_folder(guarded: GuardedEngine, loud: list[Path]) -> None:
    await guarded.engine.load("a@0", loud[0])
    text = await guarded.text("a@0")
    await guarded.engine.close_adapter("a@0")

    await guarded.engine.load("a@0", Path("/nowhere"))

    assert await guarded.text("a@0") == text
    await guarded.empty()


async def test_a_disconnect_releases_the_slot(guarded: GuardedEngine, loud: list[Path]) -> None:
    await guarded.engine.load("a@0", loud[0])
    begun = asyncio.Event()
    answer = asyncio.create_task(_streamed(guarded, "a@0", begun, tokens=400))
    await begun.wait()

    answer.cancel()

    async with asyncio.timeout(20):
        while (await guarded.engine.list_adapters())["a@0"].in_flight:  # noqa: ASYNC110 -- another process
            await asyncio.sleep(0.05)
    await guarded.empty()


async def test_a_corrupted_engine_is_detected_and_restarted(guarded: GuardedEngine, tmp_path: Path) -> None:
    """Loads a corrupting adapter directly into the engine, without checks."""
    await guarded.engine.load("bad@1", _adapter(tmp_path, seed=0, weights=np.nan))
    await guarded.probe.check()  # as long as it is not used, it has no effect
    body = {"model": "bad@1", "prompt": PROMPT, "max_tokens": TOKENS}
    assert (await guarded.http.post("/v1/completions", json=body)).json()["choices"][0]["text"] == ""

    with pytest.raises(EngineCorrupted) as caught:
        await guarded.probe.check()
    guarded.supervisor.restart(caught.value.message)

    await guarded.until_ready(life=2)
    await guarded.probe.check()
    assert "Paris" in await guarded.text(NAME)
    assert await guarded.engine.list_adapters() == {}


async def test_an_answer_in_flight_is_completed_when_the_engine_stops(guarded: GuardedEngine) -> None:
    """This is the last test of the module, because it stops the engine."""
    whole = await _streamed(guarded, NAME)
    begun = asyncio.Event()
    answer = asyncio.create_task(_streamed(guarded, NAME, begun))
    await begun.wait()

    guarded.running.cancel()

    assert await answer == whole
    with suppress(asyncio.CancelledError):
        await guarded.running
    assert not await guarded.engine.is_healthy()


async def _streamed(guarded: GuardedEngine, model: str, begun: asyncio.Event | None = None, tokens: int = 30) -> str:
    """Returns a whole answer of `tokens` tokens; `begun` is set at the first chunk."""
    body = {
        "model": model,
        "prompt": PROMPT,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    text, last = "", ""
    async with guarded.http.stream("POST", "/v1/completions", json=body) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                text += json.loads(line[6:])["choices"][0]["text"]
                if begun:
                    begun.set()
            last = line or last
    assert last == "data: [DONE]"
    return text


def _adapter(folder: Path, seed: int, weights: float | None = None) -> Path:
    random = np.random.default_rng(seed)
    tensors = {}
    for module, (rows, columns) in read_base(BASE_MODEL, NAME).layers.items():
        if module.endswith(MODULES):
            prefix = f"base_model.model.{module}.lora_"
            tensors[f"{prefix}A.weight"] = random.normal(0, 0.2, (8, columns)).astype(np.float32)
            b = random.normal(0, 0.2, (rows, 8)) if weights is None else np.full((rows, 8), weights)
            tensors[f"{prefix}B.weight"] = b.astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": NAME, "r": 8, "lora_alpha": 16}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"target_modules": list(MODULES)}))
    return folder


def _make_base_model() -> None:
    module = ("-m", "pointsman_lora_server.base_model", str(BASE_MODEL))
    sources = {"PYTHONPATH": str(ROOT / "services" / "lora-server" / "src")}
    subprocess.run([ENGINE_PYTHON, *module], env=os.environ | sources, check=True, timeout=600)
