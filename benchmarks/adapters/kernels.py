"""Measures the cost of adapters on the CPU engine, with and without the LoRA kernel plugin of this project.

    python -m benchmarks.adapters.kernels [--rounds 6]

Two real engines, one with the plugin and one without it, are measured in alternating short rounds. A ratio is the
throughput with adapters divided by the base model's throughput in the same engine and round; the median of all rounds
is reported. The last line of output is a JSON object.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from benchmarks.gateway_load.machine import ROOT, CannotMeasure, describe_machine, free_ports

ENGINE_PYTHON = ROOT / ".venv-engine/bin/python"
BASE_MODEL = ROOT / ".pointsman/models/smollm2-135m"
BASE = "smollm2-135m"
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ADAPTERS = ("first", "second", "third")
RANK = 8
START_SECONDS = 300.0
"""Time limit of a start; it takes about 30 seconds on two idle cores."""

CONCURRENT = 16
DECODED_TOKENS = 64
"""Number of tokens that each decoding request generates; its prompt has PROMPT_TOKENS."""
PROMPT_TOKENS = 8
PREFILL_TOKENS = 256
"""Number of tokens of each prompt in the prefill measurement, which sends PREFILL_REQUESTS at once and generates one
token each."""
PREFILL_REQUESTS = 8


@dataclass(slots=True)
class Engine:
    """A running engine, with its tokens per second in each round."""

    url: str
    log: Path
    decode: dict[str, list[float]] = field(default_factory=lambda: {"base": [], "lora": []})
    prefill: dict[str, list[float]] = field(default_factory=lambda: {"base": [], "lora": []})

    def round(self, number: int) -> None:
        """Measures the base model and the adapters once. Their order alternates between rounds, because the machine's
        speed drifts within a round.
        """
        kinds: list[tuple[str, Sequence[str]]] = [("base", (BASE,)), ("lora", ADAPTERS)]
        for kind, models in kinds if number % 2 else reversed(kinds):
            seconds = self.ask(CONCURRENT, models, PROMPT_TOKENS, DECODED_TOKENS)
            self.decode[kind].append(CONCURRENT * DECODED_TOKENS / seconds)
            seconds = self.ask(PREFILL_REQUESTS, models, PREFILL_TOKENS, 1)
            self.prefill[kind].append(PREFILL_REQUESTS * PREFILL_TOKENS / seconds)

    def ask(self, requests: int, models: Sequence[str], prompt_tokens: int, tokens: int) -> float:
        """Sends all requests at once, and returns the seconds until the last one ends. Prompts are random, so none is
        cached.
        """

        def one(number: int) -> None:
            prompt = [random.randrange(100, 40_000) for _ in range(prompt_tokens)]
            body = {"model": models[number % len(models)], "prompt": prompt, "max_tokens": tokens, "temperature": 0}
            answer = client.post(f"{self.url}/v1/completions", json=body | {"ignore_eos": True})
            if answer.status_code != 200 or answer.json()["usage"]["completion_tokens"] != tokens:
                raise CannotMeasure(f"the engine answers {answer.status_code}: {answer.text[:300]}")

        limits = httpx.Limits(max_connections=requests)
        with httpx.Client(trust_env=False, timeout=300, limits=limits) as client, ThreadPoolExecutor(requests) as pool:
            started = time.perf_counter()
            list(pool.map(one, range(requests)))
            return time.perf_counter() - started


def measure(rounds: int = 6) -> dict[str, float]:
    """Returns the median ratios of a run, which takes about five minutes. Raises CannotMeasure."""
    return _ratios(*compare(rounds))


def compare(rounds: int) -> tuple[Engine, Engine]:
    """Measures the engine with the plugin and the one without it for `rounds` rounds each. Raises CannotMeasure."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        adapters = {name: random_adapter(Path(folder) / name, seed) for seed, name in enumerate(ADAPTERS)}
        engines = [
            running.enter_context(engine_running(Path(folder) / f"plugin-{switch}.log", adapters, switch))
            for switch in ("on", "off")
        ]
        for engine, word in zip(engines, ("are active", "are off"), strict=True):
            if word not in engine.log.read_text():
                raise CannotMeasure("pointsman-vllm-cpu-lora is not installed in the engine's environment: make env")
            engine.ask(
                CONCURRENT, (BASE, *ADAPTERS), PROMPT_TOKENS, 2
            )  # the first request with an adapter loads its files
        for number in range(rounds):
            for engine in engines:
                engine.round(number)
            print(f"kernels, round {number + 1} of {rounds}, so far: {_ratios(*engines)}", file=sys.stderr, flush=True)
        return engines[0], engines[1]


@contextmanager
def engine_running(log: Path, adapters: dict[str, Path], switch: str) -> Iterator[Engine]:
    (port,) = free_ports(1)
    cores = sorted(os.sched_getaffinity(0))
    command = [
        *(str(ENGINE_PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model", str(BASE_MODEL)),
        *("--served-model-name", BASE, "--host", "127.0.0.1", "--port", str(port), "--dtype", "bfloat16"),
        *("--max-model-len", "2048", "--no-enable-prefix-caching", "--disable-uvicorn-access-log"),
        *("--enable-lora", "--max-loras", str(len(adapters)), "--max-lora-rank", str(RANK)),
        *("--lora-modules", *(f"{name}={folder}" for name, folder in adapters.items())),
    ]
    environment = os.environ | {
        "POINTSMAN_VLLM_CPU_LORA": switch,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
    }
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    try:
        engine = Engine(f"http://127.0.0.1:{port}", log)
        _wait(engine, process)
        yield engine
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(15)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # including children that outlived it
        process.wait(15)


def _wait(engine: Engine, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            if httpx.get(f"{engine.url}/health", trust_env=False).status_code == 200:
                return
        time.sleep(0.2)
    raise CannotMeasure(f"the engine does not come up:\n{engine.log.read_text('utf-8', 'replace')[-2000:]}")


def random_adapter(folder: Path, seed: int) -> Path:
    """Writes an adapter of all linear layers with random weights, small enough that the model still generates text."""
    generator, tensors = np.random.default_rng(seed), {}
    with safe_open(BASE_MODEL / "model.safetensors", "numpy") as base:
        names = base.keys()
        shapes = {name.removesuffix(".weight"): base.get_slice(name).get_shape() for name in names}
    for module, shape in shapes.items():
        if module.endswith(MODULES):
            a = generator.normal(0, shape[1] ** -0.5, (RANK, shape[1]))
            b = generator.normal(0, 0.02, (shape[0], RANK))
            tensors[f"base_model.model.{module}.lora_A.weight"] = a.astype(np.float32)
            tensors[f"base_model.model.{module}.lora_B.weight"] = b.astype(np.float32)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": BASE}
    (folder / "adapter_config.json").write_text(
        json.dumps(config | {"r": RANK, "lora_alpha": 2 * RANK, "target_modules": list(MODULES)})
    )
    return folder


def _ratios(with_plugin: Engine, without: Engine) -> dict[str, float]:
    return {
        "decode_ratio": _ratio(with_plugin.decode),
        "prefill_ratio": _ratio(with_plugin.prefill),
        "decode_ratio_without": _ratio(without.decode),
        "prefill_ratio_without": _ratio(without.prefill),
    }


def _ratio(found: dict[str, list[float]]) -> float:
    ratios = [lora / base for base, lora in zip(found["base"], found["lora"], strict=True)]
    return round(statistics.median(ratios), 3)


def table(engines: Sequence[tuple[str, Engine]]) -> str:
    lines = [
        "| tokens a second, median (least - most) | base model | 3 adapters, mixed | ratio, median of rounds |",
        "| --- | --- | --- | --- |",
    ]
    for name, engine in engines:
        for what, found in (("decoding, 16 at once", engine.decode), ("prefill", engine.prefill)):
            cells = (f"{statistics.median(of):,.0f} ({min(of):,.0f} - {max(of):,.0f})" for of in found.values())
            lines.append(f"| {what}, {name} | {' | '.join(cells)} | {_ratio(found):.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="LoRA on the CPU engine, with and without pointsman-vllm-cpu-lora")
    parser.add_argument("--rounds", type=int, default=6)
    rounds = parser.parse_args().rounds
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # raises SystemExit, so that the engines are stopped
    with_plugin, without = compare(rounds)
    print(describe_machine())
    print(table((("with the plugin", with_plugin), ("without", without))))
    print(json.dumps(_ratios(with_plugin, without)))


if __name__ == "__main__":
    main()
