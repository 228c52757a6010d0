import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pointsman_cli.data_dir import DataDir, Run, RunningProcess, read_run, write_run

Cli = Callable[..., Any]
Until = Callable[..., Any]


@pytest.mark.parametrize("command", ["up", "ask", "route", "ingest", "train", "doctor"])
def test_every_command_has_help(cli: Cli, command: str) -> None:
    outcome = cli(command, "--help")

    assert outcome.code == 0
    assert f"Usage: pointsman {command}" in outcome.out
    assert "--data-dir" in outcome.out


def test_without_arguments_the_commands_are_listed(cli: Cli) -> None:
    outcome = cli()

    assert outcome.code == 2
    for command in ("up", "ask", "route", "ingest", "train", "doctor"):
        assert f"\n  {command} " in outcome.out


@pytest.mark.parametrize("group", ["adapters", "keys", "jobs", "prices", "classifier"])
def test_a_group_without_a_command_lists_its_commands(cli: Cli, group: str) -> None:
    outcome = cli(group)

    assert outcome.code == 2
    assert outcome.err.startswith(f"Usage: pointsman {group} ")
    assert "\nCommands:\n" in outcome.err


def test_the_version_is_printed(cli: Cli) -> None:
    assert cli("--version").out.strip()[0].isdigit()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("aks", "x"), "aks"),
        (("ask",), "TEXT"),
        (("ask", "x", "--modle", "auto"), "--modle"),
        (("train", "--rank", "many"), "--rank"),
    ],
)
def test_an_error_on_the_command_line_is_one_line(cli: Cli, arguments: tuple[str, ...], message: str) -> None:
    outcome = cli(*arguments)

    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert message in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("ask", "x", "--url", "http://[::1"),
            "'http://[::1' is not a URL (Invalid IPv6 URL); it should be like http",
        ),
        (("route", "x", "--url", "http://127.0.0.1:99999"), "Port out of range 0-65535"),
        (("feedback", "x", "--rating", "1", "--url", "ftp://gateway"), "it must have http:// or https:// and a host"),
        (("advise", "--regret", "--gateway", "127.0.0.1:99999"), "Port out of range 0-65535"),
        (("top", "--once", "--gateway", "127.0.0.1:99999"), "Port out of range 0-65535"),
        (("doctor", "--cluster", "http://[::1"), "Invalid IPv6 URL"),
        (("ask", "half a lett\udcc3"), "the text is not UTF-8"),
        (("feedback", "x", "--correction", "half a lett\udcc3"), "the feedback is not UTF-8"),
        (("retriever", "tune", "notes", "."), "Is a directory"),
        (("retriever", "restore", "notes", "."), "is a directory"),
    ],
)
def test_an_invalid_value_is_named_with_the_valid_ones(
    cli: Cli, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    outcome = cli(*arguments, "--data-dir", tmp_path)

    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_an_unwritable_snapshot_file_is_named(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("retriever", "snapshot", "notes", tmp_path / "none" / "file", "--retriever", "127.0.0.1:9")

    assert outcome.code == 1
    assert f"{tmp_path / 'none' / 'file'} cannot be written: No such file or directory; name one in" in outcome.err


@pytest.mark.parametrize("command", [("ask", "x"), ("retriever", "list"), ("up", "EXAMPLE")])
def test_a_folder_in_place_of_the_run_file_is_named(
    cli: Cli, tmp_path: Path, example_folder: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "home" / "run.json").mkdir(parents=True)
    python = ("--engine-python", sys.executable) if "up" in command else ()
    arguments = [example_folder if one == "EXAMPLE" else one for one in command]

    outcome = cli(*arguments, *python, "--data-dir", tmp_path / "home")

    assert outcome.code == 2
    assert "run.json cannot be read: Is a directory; `pointsman up` keeps a file there: remove" in outcome.err


def test_a_data_directory_that_is_a_file_is_named(cli: Cli, tmp_path: Path, example_folder: Path) -> None:
    (tmp_path / "home").touch()

    outcome = cli("up", example_folder, "--engine-python", sys.executable, "--data-dir", tmp_path / "home")

    assert outcome.code == 2
    assert "cannot be written: " in outcome.err
    assert "--data-dir" in outcome.err


@pytest.mark.parametrize("arguments", [("--help",), ("retriever", "list", "--help"), ("--version",)])
def test_output_to_a_full_disk_is_a_one_line_error(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "pointsman_cli", *arguments]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)

    assert done.returncode == 1
    assert (
        done.stderr
        == "error: the output could not be written completely: No space left on device; free some space there\n"
    )


async def test_ctrl_c_stops_a_training_cleanly_and_in_one_line(
    executable: Callable[[str], Path], tmp_path: Path, until: Until
) -> None:
    trainer = executable(
        "import pathlib, sys, time\n"
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        "if sys.argv[2].endswith('base_model'): sys.exit()\n"
        "try:\n    (here / 'began').touch()\n    while True: time.sleep(0.02)\n"
        "except KeyboardInterrupt:\n    (here / 'cleaned').touch(); sys.exit(130)\n"
    )
    data = tmp_path / "data.jsonl"
    data.write_text("{}\n")
    command = [sys.executable, "-m", "pointsman_cli", "train", "--name", "triage", "--data", str(data)]
    command += ["--out", str(tmp_path / "out"), "--engine-python", str(trainer), "--data-dir", str(tmp_path / "home")]
    with (tmp_path / "err").open("wb") as err:
        training = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=err)  # noqa: ASYNC220 -- returns at once
    await until((tmp_path / "began").exists, "the trainer runs")

    training.send_signal(signal.SIGINT)
    await until(lambda: training.poll() is not None, "the command has ended")

    assert training.returncode == 130
    assert (tmp_path / "cleaned").exists()
    assert (tmp_path / "err").read_text() == "error: interrupted (SIGINT)\n"


def a_run(pid: int) -> Run:
    addresses = {name: f"{name}:1" for name in Run.__dataclass_fields__ if name not in ("pid", "processes")}
    return Run(pid=pid, processes={"gateway": RunningProcess(7, "http:1", "gateway.log")}, **addresses)


def test_the_run_file_is_read_as_written(tmp_path: Path) -> None:
    data_dir = DataDir.at(tmp_path)
    write_run(a_run(os.getpid()), data_dir.run_file)

    assert read_run(data_dir.run_file) == a_run(os.getpid())
    assert list(tmp_path.iterdir()) == [data_dir.run_file]


@pytest.mark.parametrize("content", [None, "{", "[]", '{"pid": 1}'])
def test_a_missing_or_invalid_run_file_means_that_nothing_runs(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)

    assert read_run(tmp_path / "run.json") is None


def test_the_run_file_of_a_dead_process_means_that_nothing_runs(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write_run(a_run(gone.pid), tmp_path / "run.json")

    assert read_run(tmp_path / "run.json") is None
