"""Training that does not fit into its time limit asks at a terminal how to go on; elsewhere it fails."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from pointsman_cli.train.progress import TooShort, parse_event
from pointsman_lora_server.training import too_short as trainer

from tests.cli.conftest import PATIENCE

# Replaces the engine's Python. The trainer refuses to train until an option that the question offers is there.
TRAINER = """
import json, pathlib, sys
module, *arguments = sys.argv[2:]
if module == "pointsman_lora_server.base_model":
    sys.exit()
out = pathlib.Path(arguments[arguments.index("--out") + 1])
with out.with_name("runs").open("a") as runs:
    runs.write(json.dumps(arguments) + chr(10))
given = dict(zip(arguments, arguments[1:]))
if given.get("--max-minutes") == "8.0" and not {"--min-epochs", "--max-rows"} & set(given):
    print(json.dumps({"event": "too_short", "epochs": 3, "steps": 51, "minutes": 25, "max_minutes": 8.0,
                      "epochs_within": EPOCHS, "rows_within": ROWS}), flush=True)
    sys.exit("error: 3 epochs take about 25 minutes here; raise --max-minutes")
out.mkdir()
print(json.dumps({"event": "done", "folder": str(out), "seconds": 12.0, "metrics": {}}), flush=True)
"""
ASKED = (
    "about 25 minutes here for 3 epochs; --max-minutes 8 trains 0.2 epochs: "
    "stop (default), go on, longer (25 minutes), or fewer rows (24)? "
)

Executable = Callable[[str], Path]
Command = Callable[..., list[str]]


@pytest.fixture
def command(executable: Executable, tmp_path: Path) -> Command:
    """Returns a function that makes a `train` command; `rows` and `epochs` are what fits into its eight minutes."""
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "lost my bag", "output": "lost_item"}\n')

    def make(epochs: float = 0.2, rows: int = 24) -> list[str]:
        python = executable(TRAINER.replace("EPOCHS", str(epochs)).replace("ROWS", str(rows)))
        options = {"--name": "triage", "--data": data, "--out": tmp_path / "out", "--max-minutes": 8}
        places = {"--engine-python": python, "--data-dir": tmp_path / "home"}
        given = [str(part) for option in (options | places).items() for part in option]
        return [sys.executable, "-m", "pointsman_cli", "train", *given]

    return make


def runs(folder: Path) -> list[list[str]]:
    return [json.loads(line) for line in (folder / "runs").read_text().splitlines()]


def answer_at_terminal(command: Sequence[str], *answers: str, typed_before: str = "") -> tuple[int, str]:
    """Runs a command at a pseudo-terminal and types each answer when a question is asked; `typed_before` at the start.

    Returns its exit code and all that the terminal shows, as one line.
    """
    ours, theirs = os.openpty()
    terminal: dict[str, Any] = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "start_new_session": True}
    with subprocess.Popen(command, env={**os.environ, "COLUMNS": "200"}, **terminal) as process:
        os.close(theirs)
        if typed_before:
            os.write(ours, f"{typed_before}\n".encode())
        shown, left = "", list(answers)
        while piece := read(ours):
            shown += piece
            if left and re.search(r"(\?|:) $", shown):
                os.write(ours, f"{left.pop(0)}\n".encode())
        os.close(ours)
        code = process.wait(PATIENCE)
    assert not left, shown
    return code, " ".join(shown.split()) + " "


def read(terminal: int) -> str:
    """Returns what a terminal shows next; empty if nothing has it open any more."""
    try:
        return os.read(terminal, 1000).decode()
    except OSError:
        return ""


@pytest.mark.parametrize(
    ("answer", "options"),
    [
        ("g", {"--min-epochs": "0"}),
        ("go on", {"--min-epochs": "0"}),
        ("longer", {"--max-minutes": "25", "--min-epochs": "0"}),
        ("Fewer", {"--max-rows": "24", "--min-epochs": "0"}),
    ],
)
def test_the_choice_at_a_terminal_is_trained_whatever_fits(
    command: Command, tmp_path: Path, answer: str, options: dict[str, str]
) -> None:
    code, shown = answer_at_terminal(command(), answer)

    assert ASKED in shown
    assert f"training with the options {' '.join(f'{name} {value}' for name, value in options.items())} " in shown
    assert code == 0, shown
    refused, trained = (dict(zip(run[::2], run[1::2], strict=True)) for run in runs(tmp_path))
    assert trained == {**refused, **options}


@pytest.mark.parametrize("answer", ["", "s", "stop"])
def test_stop_is_the_default_and_trains_nothing(command: Command, tmp_path: Path, answer: str) -> None:
    code, shown = answer_at_terminal(command(), answer)

    assert (code, len(runs(tmp_path))) == (1, 1)
    assert "error: nothing was trained: 3 epochs take about 25 minutes here; raise --max-minutes" in shown


def test_what_was_typed_before_the_question_is_no_answer(command: Command, tmp_path: Path) -> None:
    code, shown = answer_at_terminal(command(), "", typed_before="longer")

    assert ASKED in shown
    assert (code, len(runs(tmp_path))) == (1, 1)


def test_a_run_with_a_checkpoint_names_the_options_to_resume_with(command: Command, tmp_path: Path) -> None:
    code, shown = answer_at_terminal([*command(), "--checkpoint", str(tmp_path / "unfinished")], "fewer")

    assert "training with the options --max-rows 24 --min-epochs 0; give them again with --resume " in shown
    assert code == 0, shown


def test_a_command_in_the_background_fails_and_does_not_ask(command: Command, tmp_path: Path) -> None:
    in_background = ["setsid", "--ctty", "--wait", "sh", "-c", 'timeout 30 "$@"; exit $?', "sh"]
    code, shown = answer_at_terminal([*in_background, *command()])

    assert (code, len(runs(tmp_path))) == (1, 1)
    assert "error: the training of triage failed: 3 epochs take about 25 minutes here" in shown
    assert "stop (default)" not in shown


def test_the_event_has_the_fields_that_the_trainer_sends() -> None:
    sent = trainer.TooShort.of(epochs=3, steps=51, steps_within=5, rows=240, seconds=1500, max_minutes=8)

    event = parse_event(json.dumps({"event": "too_short", **sent.facts()}))

    assert isinstance(event, TooShort)
    assert asdict(event) == {name: value for name, value in sent.facts().items() if name != "steps"}


def test_what_fits_is_rounded_down() -> None:
    found = trainer.TooShort.of(epochs=1, steps=1000, steps_within=999, rows=100, seconds=1500, max_minutes=8)

    assert (found.epochs_within, found.rows_within) == (0.99, 99)


def test_an_unknown_answer_is_asked_for_again(command: Command, tmp_path: Path) -> None:
    code, shown = answer_at_terminal(command(), "yes", "f")

    assert "answer with stop, go on, longer, fewer rows, or its first letter: " in shown
    assert (code, len(runs(tmp_path))) == (0, 2)


def test_choices_that_would_be_refused_again_are_not_offered(command: Command) -> None:
    _, shown = answer_at_terminal(command(epochs=0, rows=0), "")

    assert "--max-minutes 8 trains 0 epochs: stop (default), or longer (25 minutes)? " in shown


@pytest.mark.parametrize("typed", ["", "go on\n"])
def test_a_pipe_is_not_asked(command: Command, tmp_path: Path, typed: str) -> None:
    ended = subprocess.run(command(), input=typed, capture_output=True, text=True, timeout=PATIENCE)

    assert (ended.returncode, len(runs(tmp_path))) == (1, 1)
    error = "error: the training of triage failed: 3 epochs take about 25 minutes here; raise --max-minutes\n"
    assert ended.stderr == error
    assert "stop (default)" not in ended.stdout
