"""The swap test changes adapters through the guard, SGLang's routes or commands, and is right about each."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conformance.conftest import GUARDED, KEY, Double, StartDouble, failed, swap_options, verdicts
from tests.cli.conftest import Cli

SGLANG = ("--api", "sglang")


def commands(double: Double) -> list[str]:
    """Returns the options of `--control commands`, whose commands call the double's routes."""
    code = (
        "import json, sys, urllib.request as u; name, folder, what = sys.argv[1:]; "
        "body = dict(lora_name=name, lora_path=folder, load_inplace=True); "
        f"headers = dict(authorization='Bearer {KEY}'); "
        f"u.urlopen(u.Request('{double.url}/v1/' + what + '_lora_adapter', json.dumps(body).encode(), headers))"
    )
    call = f'{sys.executable} -c "{code}" {{name}} {{folder}}'
    return ["--control", "commands", "--load-command", f"{call} load", "--unload-command", f"{call} unload"]


def assert_is_sound(out: str, code: int, shelf: Path, double: Double, **weak: str) -> None:
    found = json.loads(out)
    assert (code, found["not_carried_out"]) == (0, []), found
    expected = {"restart": "untested", **{name.replace("_", "-"): verdict for name, verdict in weak.items()}}
    assert {name: verdict for name, verdict in verdicts(found).items() if verdict != "pass"} == expected, found
    assert double.models() == ["tiny-base"]
    assert list((shelf / "served").iterdir()) == []


def test_a_sound_engine_passes_through_the_guard(start_double: StartDouble, shelf: Path, cli: Cli) -> None:
    with start_double(module=GUARDED) as double:
        outcome = cli(*swap_options(double, shelf, "--control", "guard", "--json"))
        assert_is_sound(outcome.out, outcome.code, shelf, double)


def test_a_sound_sglang_is_weak_in_refusing_requests_while_an_adapter_is_replaced(
    start_double: StartDouble, shelf: Path, cli: Cli
) -> None:
    with start_double("", *SGLANG) as double:
        outcome = cli(*swap_options(double, shelf, "--control", "sglang", "--json"))
        assert_is_sound(outcome.out, outcome.code, shelf, double, failed_requests="weak")


def test_a_sound_fleet_passes_by_commands(start_double: StartDouble, shelf: Path, cli: Cli) -> None:
    with start_double() as double:
        outcome = cli(*swap_options(double, shelf, *commands(double), "--json"))
        assert_is_sound(outcome.out, outcome.code, shelf, double)


@pytest.mark.parametrize("fault", ["wrong-version", "base-changed", "no-effect"])
def test_a_fault_behind_the_guard_is_named(start_double: StartDouble, shelf: Path, cli: Cli, fault: str) -> None:
    with start_double(fault, module=GUARDED) as double:
        outcome = cli(*swap_options(double, shelf, "--control", "guard", "--json"))
    assert (outcome.code, failed(json.loads(outcome.out))) == (1, {fault})


@pytest.mark.parametrize("fault", ["stale-cache", "in-flight", "file-names"])
def test_a_fault_of_an_sglang_is_named(start_double: StartDouble, shelf: Path, cli: Cli, fault: str) -> None:
    with start_double(fault, *SGLANG) as double:
        outcome = cli(*swap_options(double, shelf, "--control", "sglang", "--json"))
    assert (outcome.code, failed(json.loads(outcome.out))) == (1, {fault})


@pytest.mark.parametrize("fault", ["stale-cache", "no-effect"])
def test_a_fault_of_a_fleet_is_named(start_double: StartDouble, shelf: Path, cli: Cli, fault: str) -> None:
    with start_double(fault) as double:
        outcome = cli(*swap_options(double, shelf, *commands(double), "--json"))
    assert (outcome.code, failed(json.loads(outcome.out))) == (1, {fault})


def test_an_interrupted_replacement_leaves_no_version_behind_the_guard(start_double: StartDouble, shelf: Path) -> None:
    with start_double(module=GUARDED) as double:
        options = swap_options(double, shelf, "--control", "guard", "--load-seconds", 600)
        command = [sys.executable, "-m", "pointsman_cli", *map(str, options)]
        with subprocess.Popen(command, env=os.environ) as process:
            deadline = time.monotonic() + 240
            while sum("moving-under-load" in model for model in double.models()) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=180) == 130
        assert double.models() == ["tiny-base"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--control", "commands"), 2, "--control commands needs --load-command and --unload-command"),
        (("--restart-command", "sh -c 'echo"), 2, '--restart-command "sh -c \'echo" is not a valid command line'),
        (
            ("--control", "commands", "--load-command", "no-such-program", "--unload-command", "true"),
            3,
            "version-0 cannot be loaded: no-such-program cannot be started",
        ),
        (
            ("--control", "commands", "--load-command", "sh -c 'echo full >&2; false'", "--unload-command", "true"),
            3,
            "version-0 cannot be loaded: sh ended with exit code 1: full",
        ),
        (("--control", "guard"), 3, "version-0 cannot be loaded: 404 to PUT /pointsman/v1/adapters/"),
        (("--control", "sglang"), 3, "version-0 cannot be loaded: 404 to POST /load_lora_adapter"),
        (("--control", "pointsman", "--lora-server", "127.0.0.1:1"), 3, "version-0 cannot be loaded: "),
    ],
)
def test_a_control_that_does_not_work_is_one_line(
    start_double: StartDouble, shelf: Path, cli: Cli, options: tuple[str, ...], code: int, message: str
) -> None:
    with start_double() as double:
        outcome = cli(*swap_options(double, shelf, *options, "--json"))
        assert double.models() == ["tiny-base"]
    errors = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert (outcome.code, outcome.out, len(errors)) == (code, "", 1), outcome.err
    assert message in errors[0]


def test_the_guards_secret_is_missed_before_anything_happens(
    start_double: StartDouble, shelf: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start_double(module=GUARDED) as double:
        monkeypatch.delenv("POINTSMAN_ENGINE_SECRET")
        outcome = cli(*swap_options(double, shelf, "--control", "guard", "--dry-run"))
        monkeypatch.setenv("POINTSMAN_ENGINE_SECRET", "another-secret-of-this-length")
        wrong = cli(*swap_options(double, shelf, "--control", "guard"))
    assert (outcome.code, "POINTSMAN_ENGINE_SECRET" in outcome.err) == (2, True)
    assert (wrong.code, "the secret differs from the engine's" in wrong.err) == (3, True)
