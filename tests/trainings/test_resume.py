"""A killed training run resumes with the same result as an uninterrupted one."""

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.lora_server import trainings
from tests.lora_server.trainings import PYTHON, TINY, command, environment, train

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="needs the engine's environment")

WORDS = ("bag", "ramp", "refund", "seat")
EPOCHS = ("--epochs", 12, "--checkpoint-seconds", 0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trainings.make_tiny_base(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"text": f"The {word} {number}", "output": word} for word in WORDS for number in range(8)]
    return trainings.write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl", *rows)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"prompt": f"The {word} {n}", "chosen": word, "rejected": "what?"} for word in WORDS for n in range(8)]
    return trainings.write_rows(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", *rows)


def at_step(step: int) -> Any:
    return lambda event: event["event"] == "step" and event["step"] == step


@pytest.mark.parametrize("method", ["lora", "dpo"])
def test_a_killed_run_resumes_with_identical_losses_and_result(
    method: str, base: Path, data: Path, pairs: Path, tmp_path: Path
) -> None:
    rows = pairs if method == "dpo" else data
    whole = train(base, rows, tmp_path / "whole", *TINY, *EPOCHS, "--method", method)
    assert whole.code == 0, whole.warnings
    options = (*TINY, *EPOCHS, "--method", method, "--checkpoint", tmp_path / "state", "--resume")

    killed = train(base, rows, tmp_path / "out", *options, kill_at=at_step(11))
    again = train(base, rows, tmp_path / "out", *options, kill_at=at_step(17))
    resumed = train(base, rows, tmp_path / "out", *options)

    assert (killed.code, again.code, resumed.code) == (-signal.SIGKILL, -signal.SIGKILL, 0)
    assert 10 <= again.of("start")[0]["resumed_at"] <= resumed.of("start")[0]["resumed_at"]
    assert killed.losses() | again.losses() | resumed.losses() == whole.losses()
    assert resumed.metrics == whole.metrics
    first, second = (tmp_path / name / "adapter_model.safetensors" for name in ("whole", "out"))
    assert first.read_bytes() == second.read_bytes()


def test_a_checkpoint_of_other_data_or_settings_is_rejected_with_the_difference(
    base: Path, data: Path, tmp_path: Path
) -> None:
    state = ("--checkpoint", tmp_path / "state", "--resume")
    train(base, data, tmp_path / "out", *TINY, *EPOCHS, *state, kill_at=at_step(3))
    other = trainings.write_rows(tmp_path / "rows.jsonl", *({"text": f"q{n}", "output": "a"} for n in range(20)))

    for rows, options, what in ((other, (), "training data (--data or --max-rows)"), (data, ("--rank", 8), "recipe")):
        run = train(base, rows, tmp_path / "out", *TINY, *EPOCHS, *state, *options)
        assert run.code == 1
        assert f"belongs to another run: its {what} differs" in run.warnings


def test_a_checkpoint_is_not_overwritten_without_the_option(base: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "checkpoint.pt").write_bytes(b"of a long run")
    run = train(base, data, tmp_path / "out", *TINY, *EPOCHS, "--checkpoint", tmp_path / "state")
    assert (run.code, run.events) == (1, [])
    assert "--resume goes on with it" in run.warnings
    assert (tmp_path / "state" / "checkpoint.pt").read_bytes() == b"of a long run"


def test_a_damaged_checkpoint_is_reported(base: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "checkpoint.pt").write_bytes(b"damaged")
    run = train(base, data, tmp_path / "out", *TINY, *EPOCHS, "--checkpoint", tmp_path / "state", "--resume")
    assert run.code == 1
    assert "cannot be read" in run.warnings


def test_a_stopped_run_says_how_to_resume(base: Path, data: Path, tmp_path: Path) -> None:
    options = (
        *TINY,
        "--epochs",
        500,
        "--heldout-share",
        0,
        "--checkpoint-seconds",
        0,
        "--checkpoint",
        tmp_path / "state",
    )
    with subprocess.Popen(
        command(base, data, tmp_path / "out", *options),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        while '"step": 2,' not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, warnings = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopped: no adapter was written; --resume goes on" in warnings
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_reported_and_leaves_the_earlier_adapter(base: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert train(base, data, out, *TINY, "--epochs", 1).code == 0
    before = (out / "adapter_model.safetensors").read_bytes()
    run = train(base, data, out, *TINY, "--epochs", 2, max_file_bytes=len(before) - 1)
    assert (run.code, run.warnings) == (1, f"error: {out} cannot be written: File too large\n")
    assert (out / "adapter_model.safetensors").read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]


def test_training_continues_if_its_checkpoint_cannot_be_written(base: Path, data: Path, tmp_path: Path) -> None:
    out, state = tmp_path / "out", tmp_path / "state"
    options = (*TINY, *EPOCHS, "--epochs", 1, "--checkpoint", state)
    run = train(base, data, out, *options, max_file_bytes=30_000)
    assert (run.code, len(run.of("done"))) == (0, 1)
    problems = {line for line in run.warnings.splitlines() if "checkpoint" in line}
    assert problems == {f"{state / 'checkpoint.pt'} cannot be written: File too large; training continues"}
    assert not list(state.iterdir())
