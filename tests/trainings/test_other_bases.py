"""Adapters are trained for base models of other architectures than the example's base model."""

import json
import math
from pathlib import Path

import pytest
from pointsman_lora_server.checks.base_layers import read_base
from pointsman_lora_server.store import ArtifactStore

from tests.lora_server import trainings
from tests.lora_server.trainings import PYTHON, TINY, train

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="needs the engine's environment")

ROUTES = [("bag", "lost_item"), ("ramp", "assistance"), ("refund", "refund"), ("seat", "change_booking")]
HOURS = ("six", "seven", "eight", "nine", "ten", "noon")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The base models made so far, by architecture."""
    return {"": tmp_path_factory.mktemp("bases")}


def base_of(bases: dict[str, Path], architecture: str) -> Path:
    if architecture not in bases:
        bases[architecture] = trainings.make_tiny_base(bases[""] / architecture, architecture)
    return bases[architecture]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    asked = [(f"The {thing} at {hour}", intent) for thing, intent in ROUTES for hour in HOURS]
    pairs = [{"prompt": prompt, "chosen": intent, "rejected": "no idea"} for prompt, intent in asked]
    rows = [{"text": prompt, "output": intent} for prompt, intent in asked]
    return {
        "dpo": trainings.write_rows(folder / "pairs.jsonl", *pairs),
        "rows": trainings.write_rows(folder / "rows.jsonl", *rows),
    }


@pytest.mark.parametrize(
    ("architecture", "method"),
    [
        *(("qwen2", method) for method in ("lora", "qlora", "dora", "dpo")),
        *((architecture, method) for architecture in ("gemma2", "phi3") for method in ("lora", "dpo")),
        ("granite", "lora"),
        ("gpt_neox", "lora"),
    ],
)
def test_an_adapter_for_another_architecture_learns_and_passes_the_checks(
    bases: dict[str, Path], data: dict[str, Path], tmp_path: Path, architecture: str, method: str
) -> None:
    base, out = base_of(bases, architecture), tmp_path / "out"
    options = (*TINY, "--method", method, "--epochs", 10 if method == "dpo" else 20, "--learning-rate", 1e-2)

    run = train(base, data.get(method, data["rows"]), out, *options)

    assert (run.code, run.warnings) == (0, "")
    before = run.metrics["heldout_loss_before"]
    # A pair that was learned is preferred in 9 of 10 cases; four equally likely tokens would give log(4).
    assert run.metrics["heldout_loss"] < (-math.log(0.9) if method == "dpo" else math.log(4))
    assert before == pytest.approx(0.6931, abs=1e-2) if method == "dpo" else 5 < before < 8
    store = ArtifactStore(tmp_path / "store", read_base(base, "tiny"), 8)
    if method != "dora":  # which is served merged
        assert store.add("triage", out.absolute(), {}).base_model == "tiny"


@pytest.mark.parametrize("architecture", ["qwen2", "gemma2", "phi3"])
def test_an_answer_ends_with_the_templates_own_end_of_turn(
    bases: dict[str, Path], data: dict[str, Path], tmp_path: Path, architecture: str
) -> None:
    run = train(base_of(bases, architecture), data["rows"], tmp_path / "out", *TINY, "--check-only")

    assert run.events[1]["text"].endswith("\u27e6lost_item<|im_end|>\u27e7")


def test_a_training_starts_only_from_an_adapter_of_its_base_model(
    bases: dict[str, Path], data: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert train(base_of(bases, "qwen2"), data["rows"], out, *TINY, "--epochs", 1).code == 0
    config = json.loads((out / "adapter_config.json").read_text())
    (out / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "another"}))

    run = train(base_of(bases, "qwen2"), data["rows"], tmp_path / "next", *TINY, "--init-from", out)

    assert run.code != 0
    assert "belongs to the base model 'another'" in str(run.events) + run.warnings
