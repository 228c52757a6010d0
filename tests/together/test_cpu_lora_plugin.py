"""The plugin that corrects vLLM's LoRA kernels on CPUs: its kernels, its guard, and a real engine compared with
PEFT."""

import ast
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

ROOT = Path(__file__).parents[2]
ENGINE_PYTHON = ROOT / ".venv-engine" / "bin" / "python"
BASE_MODEL = ROOT / ".pointsman" / "models" / "smollm2-135m"
TRAINED = ROOT / "examples" / "helpdesk" / "adapters" / "triage"  # rank 4
SCRIPTS = Path(__file__).parent / "cpu_lora"
EVERY_LAYER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
CHECKS = next(
    [check.id for check in node.value.elts if isinstance(check, ast.Name)]
    for node in ast.parse((SCRIPTS / "kernel_checks.py").read_text()).body
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)
)
"""The names of the checks in kernel_checks.py. They are read from its source, because only the engine's environment can
import it."""


@pytest.fixture(scope="module")
def checked() -> dict[str, str]:
    results: dict[str, str] = _json_of("kernel_checks.py")[0]
    return results


Mixed = tuple[dict[str, list[dict[str, Any]]], str]
"""Rows by phase of generation, and the engine's log."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    """Runs a real engine with three slots; returns its answers to mixed batches, and its log."""
    folder = tmp_path_factory.mktemp("adapters")
    (folder / "triage").symlink_to(TRAINED)
    _random_adapter(
        folder / "of-rank-8", 8, "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
    )
    _random_adapter(folder / "of-rank-2", 2, "o_proj", "down_proj")
    return _json_of("mixed_batches.py", str(BASE_MODEL), str(folder), "triage", "of-rank-8", "of-rank-2")


@pytest.mark.parametrize("check", CHECKS)
def test_in_the_engines_environment(checked: dict[str, str], check: str) -> None:
    assert checked[check] == ""


@pytest.mark.parametrize("stage", ["an unfilled slot", "all slots filled"])
def test_each_row_of_a_mixed_batch_has_the_logits_that_peft_gives_its_adapter(engine: Mixed, stage: str) -> None:
    answers = engine[0][stage]
    # PEFT in the engine's 16 bits differs from PEFT in 32 bits by this much.
    rounding = max(row["rounding"] for row in answers)
    assert rounding < 0.5, answers
    for row in answers:
        others = [apart for name, apart in row["apart"].items() if name != row["adapter"]]
        own = row["apart"][row["adapter"]]
        assert own < 0.25 * min(others), row
        assert own < 2 * rounding, row
    filled = {"base", "triage", "of-rank-8"} | ({"of-rank-2"} if stage == "all slots filled" else set())
    assert {row["adapter"] for row in answers} == filled


@pytest.mark.parametrize("stage", ["an unfilled slot", "all slots filled"])
def test_each_row_of_a_mixed_batch_answers_as_it_does_alone(engine: Mixed, stage: str) -> None:
    """Nearly equal tokens may change their order: logits have 16 bits, in steps of 0.125 for the largest ones, and
    batches round differently.
    """
    for row in engine[0][stage]:
        assert row["parted"] <= 0.3, row


def test_the_engine_says_once_a_process_that_the_kernels_are_active(engine: Mixed) -> None:
    lines = [line for line in engine[1].splitlines() if "CPU LoRA kernels of Pointsman are active" in line]
    assert 1 <= len(lines) <= 2, engine[1][-2000:]  # vLLM's API server and the process that computes


def _json_of(script: str, *arguments: str) -> tuple[Any, str]:
    """Runs the script; returns its last line, parsed as JSON, and its whole output."""
    done = subprocess.run(
        [ENGINE_PYTHON, str(SCRIPTS / script), *arguments],
        env=os.environ | QUIET,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    line = next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{"))
    return json.loads(line), done.stdout


def _random_adapter(folder: Path, rank: int, *modules: str) -> None:
    """Writes a random adapter whose logits are clearly distinct, but not dominated by rounding."""
    chance, tensors = np.random.default_rng(rank), {}
    with safe_open(BASE_MODEL / "model.safetensors", "numpy") as base:
        names = base.keys()
        shapes = {name.removesuffix(".weight"): base.get_slice(name).get_shape() for name in names}
    for module, (outputs, inputs) in ((name, shape) for name, shape in shapes.items() if name.endswith(modules)):
        prefix = f"base_model.model.{module}.lora_"
        tensors[f"{prefix}A.weight"] = chance.normal(0, inputs**-0.5, (rank, inputs)).astype(np.float32)
        tensors[f"{prefix}B.weight"] = chance.normal(0, 0.3 / rank, (outputs, rank)).astype(np.float32)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "smollm2-135m"}
    shape = {"r": rank, "lora_alpha": 2 * rank, "target_modules": list(modules)}
    (folder / "adapter_config.json").write_text(json.dumps(config | shape))
