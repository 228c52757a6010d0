"""Every training method is run for real on a tiny base model."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.lora_server import trainings
from tests.lora_server.trainings import PYTHON, TINY, Run, tensors, train

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="needs the engine's environment")

ROUTES = [("bag", "lost_item"), ("ramp", "assistance"), ("refund", "refund"), ("seat", "change_booking")]
HOURS = ("six", "seven", "eight", "nine", "ten", "noon")
ADAPTER = ["adapter_config.json", "adapter_model.safetensors", "samples.jsonl", "training.json"]

# Prints the logits of the base model with the adapter, and those of the merged model, for one prompt.
COMPARE = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter, merged = sys.argv[1:]
ids = torch.tensor([[1, 60, 61, 62, 63, 2]])
def logits(model):
    with torch.no_grad():
        return model.eval()(ids).logits
plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
before = logits(plain)
adapted = logits(PeftModel.from_pretrained(plain, adapter))
whole = logits(AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32))
print((adapted - whole).abs().max().item(), (adapted - before).abs().max().item())
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trainings.make_tiny_base(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {"text": f"The {thing} at {hour}", "output": {"intent": intent}} for thing, intent in ROUTES for hour in HOURS
    ]
    return trainings.write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl", *rows)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {"prompt": f"The {thing} at {hour}", "chosen": intent, "rejected": "no idea"}
        for thing, intent in ROUTES
        for hour in HOURS
    ]
    return trainings.write_rows(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", *rows)


@pytest.fixture(scope="module")
def lora(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    out = tmp_path_factory.mktemp("lora") / "triage"
    return train(base, data, out, *TINY, "--epochs", 40, "--learning-rate", 1e-2), out


def config(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "adapter_config.json").read_text())
    return found


def report(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "training.json").read_text())
    return found


def merged_differs_by(base: Path, adapter: Path, merged: Path) -> tuple[float, float]:
    """Returns the largest difference of logits between the merged model and the adapter, and between the adapter and
    the base model.
    """
    program = [str(PYTHON), "-c", COMPARE, str(base), str(adapter), str(merged)]
    done = subprocess.run(program, check=True, capture_output=True, text=True)
    first, second = map(float, done.stdout.split()[-2:])
    return first, second


def test_a_lora_training_reports_data_steps_and_quality(lora: tuple[Run, Path]) -> None:
    run, out = lora
    assert (run.code, run.warnings) == (0, "")
    (examined,) = run.of("data")
    assert (examined["rows"], examined["heldout_rows"]) == (22, 2)
    assert set(examined["labels"]["intent"]) == {intent for _, intent in ROUTES}
    evaluations = run.of("evaluation")
    assert [found["when"] for found in evaluations] == ["before", *["during"] * 4, "end"]
    assert evaluations[-1]["loss"] < evaluations[0]["loss"]
    assert {"exact", "json_f1", "prompt_path_exact", "prompt_path_json_f1"} <= evaluations[-1].keys()
    assert sorted(path.name for path in out.iterdir()) == ADAPTER


def test_the_report_compares_quality_with_prompting(lora: tuple[Run, Path]) -> None:
    run, out = lora
    metrics = report(out)["metrics"]
    assert metrics == run.metrics
    assert {"heldout_exact", "prompt_path_exact", "heldout_loss", "heldout_json_f1"} <= run.metrics.keys()
    assert run.metrics["heldout_rows"] == run.metrics["prompt_path_rows"] == 2


def test_held_out_rows_are_stored_with_the_adapter(lora: tuple[Run, Path]) -> None:
    rows = [json.loads(line) for line in (lora[1] / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    assert all(row["messages"][-1]["role"] == "user" and json.loads(row["answer"])["intent"] for row in rows)


def test_rslora_scales_by_the_root_of_the_rank_and_says_so(base: Path, data: Path, tmp_path: Path) -> None:
    run = train(base, data, tmp_path / "out", *TINY, "--method", "rslora", "--epochs", 10)
    assert (run.code, run.warnings) == (0, "")
    assert config(tmp_path / "out")["use_rslora"] is True
    assert run.metrics["heldout_loss"] < run.metrics["heldout_loss_before"]


def test_the_method_of_the_documentation_trains(base: Path, data: Path, tmp_path: Path) -> None:
    method = "pointsman_examples.training_method:GaussianLora"
    run = train(base, data, tmp_path / "out", *TINY, "--method", method, "--epochs", 5)
    assert (run.code, run.warnings) == (0, "")
    assert config(tmp_path / "out")["init_lora_weights"] == "gaussian"
    assert run.metrics["heldout_loss"] < run.metrics["heldout_loss_before"]


def test_dora_is_merged_into_an_equivalent_model(base: Path, data: Path, tmp_path: Path) -> None:
    run = train(base, data, tmp_path / "out", *TINY, "--method", "dora", "--epochs", 10, "--learning-rate", 1e-2)
    assert (run.code, run.warnings) == (0, "")
    assert run.of("done")[0]["merged"] == str(tmp_path / "out" / "merged")
    assert config(tmp_path / "out")["use_dora"] is True
    assert "serve the merged model" in str(report(tmp_path / "out")["served_as"])
    off, effect = merged_differs_by(base, tmp_path / "out", tmp_path / "out" / "merged")
    assert off < 0.02 * effect


def test_qlora_learns_through_four_bits_without_losing_the_gradient(
    base: Path, data: Path, lora: tuple[Run, Path], tmp_path: Path
) -> None:
    run = train(base, data, tmp_path / "out", *TINY, "--method", "qlora", "--epochs", 40, "--learning-rate", 1e-2)
    assert (run.code, run.warnings) == (0, "")  # otherwise bitsandbytes would warn that it cannot compute gradients
    whole = lora[0].metrics
    learnt = run.metrics["heldout_loss_before"] - run.metrics["heldout_loss"]
    assert learnt > 0.8 * (whole["heldout_loss_before"] - whole["heldout_loss"])
    assert config(tmp_path / "out")["base_model_name_or_path"] == "tiny"
    assert {tensor["dtype"] for tensor in tensors(tmp_path / "out" / "adapter_model.safetensors").values()} == {"BF16"}


def test_dpo_learns_to_prefer_from_the_base(base: Path, pairs: Path, tmp_path: Path) -> None:
    run = train(base, pairs, tmp_path / "out", *TINY, "--method", "dpo", "--epochs", 10)
    assert (run.code, run.warnings) == (0, "")
    first = run.of("step")[0]["loss"]
    assert first == pytest.approx(0.6931, abs=1e-3)  # ln 2: the adapter equals its reference
    assert run.metrics["heldout_loss"] < first
    assert run.metrics["heldout_preference_accuracy"] == 1.0
    assert "heldout_exact" in run.metrics


def test_dpo_starts_from_an_adapter_as_its_reference(
    base: Path, pairs: Path, lora: tuple[Run, Path], tmp_path: Path
) -> None:
    options = ("--method", "dpo", "--epochs", 5, "--init-from", lora[1], "--init-from-name", "triage@0123456789ab")
    run = train(base, pairs, tmp_path / "out", *TINY, *options)
    assert (run.code, run.warnings) == (0, "")
    assert run.of("step")[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert run.metrics["heldout_loss"] < 0.69
    assert report(tmp_path / "out")["parent"] == "triage@0123456789ab"


def test_training_starts_from_the_parent(base: Path, data: Path, lora: tuple[Run, Path], tmp_path: Path) -> None:
    run = train(base, data, tmp_path / "out", *TINY, "--init-from", lora[1], "--epochs", 5)
    assert run.code == 0, run.warnings
    assert run.of("evaluation")[0]["loss"] == pytest.approx(lora[0].metrics["heldout_loss"], abs=0.05)


def test_a_parent_that_training_makes_worse_is_kept(
    base: Path, data: Path, lora: tuple[Run, Path], tmp_path: Path
) -> None:
    run = train(base, data, tmp_path / "out", *TINY, "--init-from", lora[1], "--epochs", 2, "--learning-rate", 0.3)
    assert run.code == 0, run.warnings
    assert "training did not improve on --init-from" in run.warnings
    assert report(tmp_path / "out")["best_step"] == 0
    assert run.metrics["heldout_loss"] == pytest.approx(run.metrics["heldout_loss_before"], abs=0.05)


def test_a_lora_can_be_merged_into_a_full_model(base: Path, data: Path, tmp_path: Path) -> None:
    run = train(base, data, tmp_path / "out", *TINY, "--epochs", 5, "--merged-out", tmp_path / "whole")
    assert run.code == 0, run.warnings
    off, effect = merged_differs_by(base, tmp_path / "out", tmp_path / "whole")
    assert off < 0.02 * effect
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ADAPTER


def test_a_check_describes_the_data_and_writes_nothing(base: Path, data: Path, tmp_path: Path) -> None:
    run = train(base, data, tmp_path / "out", *TINY, "--check-only")
    assert (run.code, [event["event"] for event in run.events]) == (0, ["data", "prompt"])
    assert run.events[1]["text"] == (
        '<|im_start|>user\nThe bag at six<|im_end|>\n<|im_start|>assistant\n⟦{"intent": "lost_item"}<|im_end|>⟧'
    )
    assert not (tmp_path / "out").exists()


def test_an_existing_adapter_can_be_evaluated_without_changing_it(
    base: Path, data: Path, lora: tuple[Run, Path]
) -> None:
    run, out = lora
    weights = (out / "adapter_model.safetensors").read_bytes()
    measured = train(base, data, out, *TINY, "--evaluate-only")
    assert measured.code == 0, measured.warnings
    assert (out / "adapter_model.safetensors").read_bytes() == weights
    found = report(out)
    assert found["steps"] == len(run.losses())
    assert found["evaluated"] == {
        "heldout_file": None, "heldout_sha256": None, "heldout_share": 0.1, "heldout_rows": 2, "shots": 3,
    }  # fmt: skip
    assert measured.metrics["heldout_loss"] == pytest.approx(run.metrics["heldout_loss"], abs=0.02)


def test_training_stops_early_and_keeps_the_best_weights(base: Path, tmp_path: Path) -> None:
    """The held-out answers contradict the training data, so every step increases the held-out loss."""
    rows = [{"text": f"The {thing} at {hour}", "output": "yes yes yes"} for thing, _ in ROUTES for hour in HOURS]
    heldout_rows = [{"text": f"A {thing} at {hour}", "output": "qqqqqqqq"} for thing, _ in ROUTES for hour in HOURS]
    data = trainings.write_rows(tmp_path / "rows.jsonl", *rows)
    heldout = trainings.write_rows(tmp_path / "heldout.jsonl", *heldout_rows)
    options = ("--eval-data", heldout, "--epochs", 60, "--learning-rate", 1e-2, "--evaluations", 30, "--patience", 3)
    run = train(base, data, tmp_path / "out", *TINY, *options)
    assert run.code == 0, run.warnings
    during = [found for found in run.of("evaluation") if found["when"] == "during"]
    assert [found["best"] for found in during[-3:]] == [False, False, False]
    assert run.of("done")[0]["ended_by"] == "patience"
    assert run.of("done")[0]["steps"] < run.of("start")[0]["steps"]
    assert run.metrics["heldout_loss"] == min(found["loss"] for found in during)
    assert report(tmp_path / "out")["best_step"] < run.of("done")[0]["steps"]
