"""Two processes that share each step train the same adapter as one."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.lora_server import trainings
from tests.lora_server.trainings import PYTHON, TINY, train

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="needs the engine's environment")

ROUTES = [("bag", "lost_item"), ("ramp", "assistance"), ("refund", "refund"), ("seat", "change_booking")]
HOURS = ("six", "seven", "eight", "nine", "ten", "noon")
OPTIONS = (*TINY, "--device", "cpu", "--epochs", 8, "--learning-rate", 2e-3, "--samples", 0, "--baseline-shots", 0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trainings.make_tiny_base(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {"text": f"The {thing} at {hour}", "output": {"intent": intent}} for thing, intent in ROUTES for hour in HOURS
    ]
    return trainings.write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl", *rows)


def test_two_processes_have_the_losses_of_one(base: Path, data: Path, tmp_path: Path) -> None:
    alone = train(base, data, tmp_path / "alone", *OPTIONS)
    shared = train(base, data, tmp_path / "shared", *OPTIONS, "--processes", 2)
    assert (alone.code, shared.code, shared.warnings) == (0, 0, "")
    assert len(shared.losses()) == len(shared.of("step")) == len(alone.of("step")) > 5
    assert shared.losses() == pytest.approx(alone.losses(), abs=0.005)
    assert shared.metrics["heldout_loss"] == pytest.approx(alone.metrics["heldout_loss"], abs=0.005)
    assert shared.metrics["heldout_loss"] < shared.metrics["heldout_loss_before"] - 0.2


def test_a_batch_of_one_row_leaves_the_other_process_without_work(base: Path, data: Path, tmp_path: Path) -> None:
    run = train(base, data, tmp_path / "out", *OPTIONS, "--tokens-per-step", 1, "--epochs", 1, "--processes", 2)
    assert (run.code, run.warnings) == (0, "")
    assert len(run.of("step")) == run.of("start")[0]["rows"]


def test_an_error_is_reported_once_and_last(base: Path, tmp_path: Path) -> None:
    data = trainings.write_rows(tmp_path / "rows.jsonl", {"text": "only", "output": 5, "more": 1})
    run = train(base, data, tmp_path / "out", *OPTIONS, "--processes", 2)
    assert run.code == 1
    assert run.warnings.count("error: ") == 1
    assert run.warnings.splitlines()[-1].count("rows.jsonl") == 1


@pytest.mark.skipif(bool(list(Path("/dev").glob("nvidia[0-9]*"))), reason="needs a machine without GPUs")
def test_a_missing_gpu_is_reported(base: Path, data: Path, tmp_path: Path) -> None:
    run = train(base, data, tmp_path / "out", *OPTIONS, "--device", "cuda", "--processes", 2)
    assert run.code == 1
    assert run.warnings == "error: --device cuda: this environment's torch finds no GPU\n"


def test_preference_training_refuses_several_processes(base: Path, data: Path, tmp_path: Path) -> None:
    run = train(base, data, tmp_path / "out", *OPTIONS, "--method", "dpo", "--processes", 2)
    assert run.code == 2
    assert "leave out --processes" in run.warnings


@pytest.mark.parametrize("given", [{"ACCELERATE_USE_FSDP": "true"}, {}], ids=["by accelerate", "by option"])
def test_fsdp_gives_the_losses_and_answers_of_one_process(
    base: Path, data: Path, tmp_path: Path, given: dict[str, str]
) -> None:
    answering = ("--samples", 4, "--baseline-shots", 2, "--max-minutes", 2)
    variables = executing(COUNT_WEIGHTS, tmp_path)
    alone = train(base, data, tmp_path / "alone", *OPTIONS, *answering, variables=variables)
    shared = train(
        base, data, tmp_path / "out", *OPTIONS, *answering, "--processes", 2, *([] if given else ["--fsdp"]),
        variables=variables | given,
    )  # fmt: skip
    assert (alone.code, shared.code, shared.warnings) == (0, 0, "")
    assert shared.losses() == pytest.approx(alone.losses(), abs=0.005)
    assert shared.metrics == pytest.approx(alone.metrics, abs=0.005)
    assert shared.of("sample") == alone.of("sample") != []
    whole, divided = (int((tmp_path / f"{name}.count").read_text()) for name in ("alone", "out"))
    assert divided < 0.7 * whole


def test_fsdp_continues_from_a_checkpoint(base: Path, data: Path, tmp_path: Path) -> None:
    given = (*OPTIONS, "--processes", 2, "--fsdp", "--checkpoint-seconds", 0, "--checkpoint")
    whole = train(base, data, tmp_path / "whole", *given, tmp_path / "a")
    train(base, data, tmp_path / "out", *given, tmp_path / "b", kill_at=lambda event: event.get("step") == 4)
    resumed = train(base, data, tmp_path / "out", *given, tmp_path / "b", "--resume")
    assert (resumed.code, resumed.of("start")[0]["resumed_at"] >= 3) == (0, True)
    assert resumed.losses() == {step: whole.losses()[step] for step in resumed.losses()}
    assert resumed.metrics == whole.metrics


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give --processes 2 or more"),
        (("--processes", 2, "--method", "qlora"), "--method qlora needs the whole base model in each process"),
        (("--processes", 2, "--method", "dora"), "--method dora needs the whole base model in each process"),
        (("--processes", 2, "--evaluate-only"), "--evaluate-only uses one process: leave out --fsdp"),
        (("--processes", 2, "--merged-out", "merged"), "--merged-out needs the whole base model in one process"),
    ],
)
def test_fsdp_is_refused_where_a_process_needs_the_whole_model(
    base: Path, data: Path, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    run = train(base, data, tmp_path / "out", *OPTIONS, "--fsdp", *options)
    assert run.code == 2
    assert message in run.warnings


def test_a_stopped_training_leaves_no_process(base: Path, data: Path, tmp_path: Path) -> None:
    program = trainings.command(base, data, tmp_path / "out", *OPTIONS, "--epochs", 100_000, "--processes", 2)
    given = {"env": trainings.environment(), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*program, "--min-epochs", "0"], **given) as process:  # type: ignore[call-overload]
        while '"step"' not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGTERM)
        _, warnings = process.communicate(timeout=30)
    assert process.returncode == 130
    assert warnings.splitlines()[-1] == "stopped: no adapter was written"
    deadline = time.monotonic() + 10
    while running(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not running(tmp_path)


def running(folder: Path) -> list[int]:
    """Returns the ids of the processes whose command line names `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder) in (process / "cmdline").read_text(errors="replace"):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def test_a_process_that_would_abort_in_its_exit_does_not_fail_the_run(base: Path, data: Path, tmp_path: Path) -> None:
    variables = executing(ABORT_IN_EXIT, tmp_path)
    run = train(base, data, tmp_path / "out", *OPTIONS, "--epochs", 1, "--processes", 2, variables=variables)
    assert (run.code, run.warnings) == (0, "")
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()


def test_the_second_process_stays_until_the_first_has_written_the_adapter(
    base: Path, data: Path, tmp_path: Path
) -> None:
    variables = executing(WAIT_FOR_THE_SECOND, tmp_path)
    run = train(base, data, tmp_path / "out", *OPTIONS, "--epochs", 1, "--processes", 2, variables=variables)
    assert (run.code, run.warnings) == (0, "")
    assert (tmp_path / "second").read_text() == "stayed"


def executing(code: str, folder: Path) -> dict[str, str]:
    """Returns the variables with which each Python process executes `code` when it starts; FOLDER in it is `folder`."""
    (folder / "start").mkdir()
    (folder / "start" / "sitecustomize.py").write_text(f"FOLDER = {str(folder)!r}\n{code}")
    variables = trainings.environment()
    return variables | {"PYTHONPATH": f"{variables['PYTHONPATH']}{os.pathsep}{folder / 'start'}"}


COUNT_WEIGHTS = """
import gc, sys, warnings


def count(event, given):
    if event == "tempfile.mkdtemp" and given[0].startswith(FOLDER + "/."):  # of the adapter's new folder
        import torch

        warnings.simplefilter("ignore")  # torch's deprecated objects are asked for their class
        found = [one for one in gc.get_objects() if isinstance(one, torch.nn.Parameter) and not one.requires_grad]
        kept = [getattr(one, "_local_tensor", one).untyped_storage() for one in found]
        size = sum({storage.data_ptr(): storage.nbytes() for storage in kept}.values())
        with open(FOLDER + "/" + given[0].rsplit("/.", 1)[1].split(".")[0] + ".count", "w") as file:
            file.write(str(size))


sys.addaudithook(count)
"""
ABORT_IN_EXIT = """
import atexit, os

if "RANK" in os.environ:
    atexit.register(os.abort)
"""
WAIT_FOR_THE_SECOND = """
import fcntl, os, sys, time

lock, rank = open(FOLDER + "/lock", "a"), os.environ.get("RANK")


def wait(event, given):
    if event != "tempfile.mkdtemp" or not given[0].startswith(FOLDER + "/.out."):
        return
    seen, end = "stayed", time.monotonic() + 3
    while seen == "stayed" and time.monotonic() < end:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            seen = "left"
        except BlockingIOError:
            time.sleep(0.05)
    with open(FOLDER + "/second", "w") as file:
        file.write(seen)


if rank == "1":
    fcntl.flock(lock, fcntl.LOCK_EX)  # until the process ends
elif rank == "0":
    sys.addaudithook(wait)  # when it begins to write the adapter
"""
