"""The real trainer in the engine's environment, with the real base model."""

import json
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.lora_server import trainings
from tests.lora_server.trainings import PYTHON, ROOT, Run, environment, tensors

BASE_MODEL = ROOT / ".pointsman" / "models" / "smollm2-135m"

pytestmark = pytest.mark.skipif(
    not (PYTHON.exists() and (BASE_MODEL / "model.safetensors").exists()),
    reason="needs the engine's environment and the base model",
)

ROUTES = [("bag", "lost_item"), ("ramp", "assistance"), ("refund", "refund"), ("seat", "change_booking")]


def train(data: Path, out: Path, *options: str) -> Run:
    return trainings.train(BASE_MODEL, data, out, *options)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    rows = [
        {"text": f"The {thing} on the {hour} o'clock train, please", "output": {"intent": intent}}
        for thing, intent in ROUTES
        for hour in ("six", "seven", "eight", "nine")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Sequence[tuple[Run, Path]]:
    """Runs the same training job twice."""
    folders = [tmp_path_factory.mktemp("out") / "triage" for _ in range(2)]
    options = ("--base-model-name", "small-base", "--epochs", "4", "--tokens-per-step", "300", "--samples", "2")
    return [(train(data, folder, *options), folder) for folder in folders]


def test_the_loss_falls_on_training_and_held_out_rows(
    runs: Sequence[tuple[Run, Path]],
) -> None:
    run, _ = runs[0]
    assert (run.code, run.warnings) == (0, "intent: 'lost_item' has only 3 rows\n")
    steps, measured = run.of("step"), run.of("evaluation")
    assert [event["step"] for event in steps] == list(range(1, run.of("start")[0]["steps"] + 1))
    assert steps[-1]["loss"] < steps[0]["loss"] / 4
    assert (measured[0]["when"], measured[-1]["when"]) == ("before", "end")
    assert {event["when"] for event in measured[1:-1]} == {"during"}
    assert measured[-1]["loss"] < measured[0]["loss"] / 4


def test_the_folder_has_a_small_bf16_adapter_that_names_its_base_without_a_path(
    runs: Sequence[tuple[Run, Path]],
) -> None:
    run, folder = runs[0]
    assert run.of("done")[0]["folder"] == str(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "samples.jsonl",
        "training.json",
    ]
    header = tensors(folder / "adapter_model.safetensors")
    assert {tensor["dtype"] for tensor in header.values()} == {"BF16"}
    assert len(header) == 30 * 7 * 2  # layers, linear layers in each, A and B
    assert (folder / "adapter_model.safetensors").stat().st_size <= 2_500_000
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == ("small-base", 4, 16)
    assert str(ROOT) not in (folder / "training.json").read_text()


def test_the_report_describes_data_and_settings(runs: Sequence[tuple[Run, Path]]) -> None:
    run, folder = runs[0]
    report = json.loads((folder / "training.json").read_text())
    assert (report["name"], report["base_model"], report["recipe"]["seed"]) == ("triage", "small-base", 7)
    assert (report["data"]["file"], report["data"]["rows"], report["data"]["heldout_rows"]) == ("rows.jsonl", 14, 2)
    assert report["heldout_loss"]["end"] == run.of("evaluation")[-1]["loss"] == run.metrics["heldout_loss"]
    assert report["metrics"]["heldout_exact"] == sum(sample["exact"] for sample in run.of("sample")) / 2
    assert report["metrics"]["heldout_rows"] == report["metrics"]["prompt_path_rows"] == 2
    assert report["base_model_digest"] == json.loads((BASE_MODEL / "pointsman.json").read_text())["digest"]
    assert report["libraries"]["peft"]


def test_the_same_seed_gives_the_same_bytes(runs: Sequence[tuple[Run, Path]]) -> None:
    (_, first), (_, second) = runs
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_steps_beyond_the_time_limit_are_not_started(data: Path, tmp_path: Path) -> None:
    run = train(data, tmp_path / "out", "--epochs", "500", "--tokens-per-step", "300", "--max-minutes", "0.5")
    assert run.code == 0, run.warnings
    (start,) = run.of("start")
    assert start["steps"] < start["planned_steps"]
    assert f"{start['planned_steps']} steps do not fit into --max-minutes 0.5" in run.warnings
    assert run.of("done")[0]["seconds"] <= 30


def test_fewer_epochs_than_wanted_are_refused_with_the_time_that_all_take(data: Path, tmp_path: Path) -> None:
    few = ("--epochs", "500", "--tokens-per-step", "300", "--max-minutes", "2", "--min-epochs", "500")
    refused = train(data, tmp_path / "out", *few)
    assert refused.code == 1
    (found,) = refused.of("too_short")
    assert found["epochs"] == 500
    assert found["minutes"] > found["max_minutes"] == 2
    assert 0 < found["epochs_within"] < 500
    assert 0 <= found["rows_within"] < 14
    assert (
        f"500 epochs ({found['steps']} steps) take about {found['minutes']} minutes here, and --max-minutes 2 has time "
        f"for {found['epochs_within']:g} epochs: raise it, "
    ) in refused.warnings
    assert refused.warnings.endswith("or accept a part of an epoch with --min-epochs 0\n")
    assert not (tmp_path / "out").exists()


def test_no_time_for_a_step_is_refused_with_the_time_that_all_take(data: Path, tmp_path: Path) -> None:
    refused = train(data, tmp_path / "out", "--max-minutes", "0.01", "--min-epochs", "0")
    assert refused.code == 1
    (found,) = refused.of("too_short")
    assert (found["epochs_within"], found["rows_within"]) == (0, 0)
    assert f"take about {found['minutes']} minutes here, and --max-minutes 0.01 has no time for a" in refused.warnings


def test_at_most_so_many_rows_are_trained_on(data: Path, tmp_path: Path) -> None:
    run = train(data, tmp_path / "out", "--max-rows", "5", "--epochs", "1", "--samples", "0")
    assert run.code == 0, run.warnings
    assert (run.of("start")[0]["rows"], run.of("data")[0]["rows"]) == (5, 14)
    assert json.loads((tmp_path / "out" / "training.json").read_text())["data"]["rows"] == 5


def test_wrong_data_is_refused_with_file_and_line_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n', "utf-8")
    run = train(tmp_path / "rows.jsonl", tmp_path / "out")
    assert (run.code, run.events) == (1, [])
    assert 'rows.jsonl:1: a row needs "messages", or "text" and "output"; this one has "text"' in run.warnings
    assert not (tmp_path / "out").exists()


def test_sigint_stops_with_130_and_leaves_nothing(data: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        trainings.command(BASE_MODEL, data, tmp_path / "out", "--epochs", "500", "--heldout-share", "0"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while '"step"' not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, warnings = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopped: no adapter was written" in warnings
    assert list(tmp_path.iterdir()) == []
