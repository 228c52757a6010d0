"""The experiment's training of all weights, in the engine's environment, with the real base model."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.lora_server.trainings import PYTHON, ROOT, environment, tensors

BASE_MODEL = ROOT / ".pointsman" / "models" / "smollm2-135m"

pytestmark = pytest.mark.skipif(
    not (PYTHON.exists() and (BASE_MODEL / "model.safetensors").exists()),
    reason="needs the engine's environment and the base model",
)
EPOCHS = 3


def write_rows(file: Path, numbers: range) -> Path:
    asked = [(f"When does train {number} leave?", f"Train {number} leaves on time.") for number in numbers]
    rows = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}] for question, answer in asked
    ]
    file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return file


def start(folder: Path) -> "subprocess.Popen[str]":
    data, checked = (
        write_rows(folder / name, numbers)
        for name, numbers in (("data.jsonl", range(16)), ("checked.jsonl", range(16, 20)))
    )
    command = [str(PYTHON), "-u", "-m", "benchmarks.experiment_public.full_fine_tune", "--base-model", str(BASE_MODEL)]
    given = ["--data", str(data), "--eval-data", str(checked), "--out", str(folder / "out"), "--epochs", str(EPOCHS)]
    return subprocess.Popen(
        [*command, *given], cwd=ROOT, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


def evaluations(process: "subprocess.Popen[str]", kill_after: int = EPOCHS + 1) -> int:
    """Returns how many epochs the process evaluates before it ends, or before it is killed after `kill_after` of
    them.
    """
    assert process.stdout is not None
    count = 0
    for line in process.stdout:
        count += "eval_loss" in line
        if count == kill_after:
            process.kill()
            break
    process.wait()
    return count


def test_a_killed_training_of_all_weights_continues_after_its_last_whole_epoch(tmp_path: Path) -> None:
    with start(tmp_path) as process:
        evaluations(process, kill_after=2)
    assert not (tmp_path / "out").exists()
    with start(tmp_path) as process:
        repeated = evaluations(process)
    assert process.returncode == 0
    assert repeated < EPOCHS
    report = json.loads((tmp_path / "out" / "training.json").read_text())
    assert (report["data"]["rows"], report["steps"]) == (16, 2 * EPOCHS)
    assert report["metrics"]["heldout_loss"] < 2
    kinds = {tensor["dtype"] for tensor in tensors(tmp_path / "out" / "model.safetensors").values()}
    assert kinds == {"BF16"}
    assert not list(tmp_path.glob("out-checkpoints"))
