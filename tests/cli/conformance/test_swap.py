"""The swap test finds and names each fault of an engine, passes a sound one, and leaves every engine's adapters as they
were."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conformance.conftest import StartDouble, failed, swap_options, verdicts
from tests.cli.conftest import Cli

SEEDED = (
    *("wrong-version", "stale-cache", "no-effect", "base-changed", "failed-requests", "in-flight", "file-names"),
    "restart",
)
BASE = "tiny-base"


def test_a_sound_engine_passes_and_is_left_as_it_was(start_double: StartDouble, shelf: Path, cli: Cli) -> None:
    with start_double() as double:
        full = ("--slots", 4, "--harmful", "--restart-command", double.restart_command)
        outcome = cli(*swap_options(double, shelf, *full, "--json"))
        found = json.loads(outcome.out)

        assert verdicts(found) == dict.fromkeys(SEEDED, "pass"), found["properties"]
        assert (outcome.code, found["overall"]) == (0, "pass")
        assert found["requests"] == sum(line.startswith("complete") for line in double.sent())
        assert double.models() == [BASE]
        assert list((shelf / "served").iterdir()) == []
    observed = {each["property"]: each["observed"] for each in found["properties"]}
    assert min(observed.values()) >= 2


@pytest.mark.parametrize("fault", SEEDED)
def test_a_seeded_fault_is_found_and_named(start_double: StartDouble, shelf: Path, cli: Cli, fault: str) -> None:
    with start_double(fault) as double:
        outcome = cli(*swap_options(double, shelf, "--restart-command", double.restart_command, "--json"))
    found = json.loads(outcome.out)

    assert failed(found) == {fault}, [each for each in found["properties"] if each["examples"]]
    assert outcome.code == 1
    assert all(each["examples"] for each in found["properties"] if each["property"] == fault)


@pytest.mark.parametrize(("fault", "named"), [("nan", "base-changed"), ("vanished", "failed-requests")])
def test_what_can_stop_an_engine_is_tried_on_demand_only(
    start_double: StartDouble, shelf: Path, cli: Cli, fault: str, named: str
) -> None:
    with start_double(fault) as double:
        without = json.loads(cli(*swap_options(double, shelf, "--slots", 4, "--json")).out)
        assert without["overall"] == "pass"
        with_harm = json.loads(cli(*swap_options(double, shelf, "--slots", 4, "--harmful", "--json")).out)
    assert verdicts(with_harm)[named] == "fail"


def test_a_dry_run_changes_nothing_and_says_what_a_run_would_do(
    start_double: StartDouble, shelf: Path, cli: Cli
) -> None:
    with start_double() as double:
        outcome = cli(*swap_options(double, shelf, "--dry-run"))
        assert double.sent() == []
    assert outcome.code == 0
    assert "base model tiny-base, adapters changed by vllm" in outcome.out
    assert "left out: eviction" in outcome.out
    assert not (shelf / "served").exists()


def test_the_limit_of_requests_ends_the_test_and_cleans_up(start_double: StartDouble, shelf: Path, cli: Cli) -> None:
    with start_double() as double:
        outcome = cli(*swap_options(double, shelf, "--max-requests", 40, "--json"))
        found = json.loads(outcome.out)
        assert outcome.code == 3
        assert double.models() == [BASE]
        assert sum(line.startswith("complete") for line in double.sent()) <= 40
    assert found["overall"] == "untested"
    assert {each["why"] for each in found["not_carried_out"]} == {"the test ended at the limit of 40 requests"}


def test_adapters_of_others_are_not_evicted(start_double: StartDouble, shelf: Path, cli: Cli) -> None:
    with start_double("", "--slots", "8") as double:
        double.load("customers", shelf / "made" / "version-5")
        refused = cli(*swap_options(double, shelf))
        assert (refused.code, "which the test's could evict" in refused.err) == (2, True)
        harmful = cli(*swap_options(double, shelf, "--harmful", "--slots", 8))
        assert (harmful.code, "for an engine that nobody uses" in harmful.err) == (2, True)
        with_room = json.loads(cli(*swap_options(double, shelf, "--slots", 8, "--json")).out)
        assert with_room["overall"] == "pass"
        assert double.models() == [BASE, "customers"]


def test_an_interrupted_test_unloads_its_adapters(start_double: StartDouble, shelf: Path) -> None:
    with start_double() as double:
        command = [str(each) for each in swap_options(double, shelf, "--load-seconds", 600)]
        with subprocess.Popen([sys.executable, "-m", "pointsman_cli", *command], env=os.environ) as process:
            deadline = time.monotonic() + 180
            while not any("moving-under-load" in model for model in double.models()):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=180) == 130
        assert double.models() == [BASE]


def test_an_engine_that_ignores_all_adapters_fails(start_double: StartDouble, shelf: Path, cli: Cli) -> None:
    with start_double("no-effect") as double:
        for version in (shelf / "made").glob("version-*"):
            weights = version / "adapter_model.safetensors"
            weights.write_bytes((shelf / "made/other-names/adapter_model.safetensors").read_bytes())
        found = json.loads(cli(*swap_options(double, shelf, "--json")).out)
    assert verdicts(found)["no-effect"] == "fail"
    assert verdicts(found)["stale-cache"] == "untested"


def test_a_table_names_each_property_with_its_verdict(start_double: StartDouble, shelf: Path, cli: Cli) -> None:
    with start_double("file-names") as double:
        outcome = cli(*swap_options(double, shelf))
    lines = outcome.out.splitlines()
    (row,) = [line for line in lines if line.startswith("file-names ")]
    assert row.split()[1] == "fail"
    assert "file-names: a request for the model" in outcome.out
    assert "restart: without --restart-command nothing is restarted" in outcome.out
    assert lines[-1].startswith("overall: fail")


def test_a_url_without_an_engine_cannot_be_tested(shelf: Path, cli: Cli) -> None:
    outcome = cli("conformance", "swap", "--against", "127.0.0.1:1", "--adapters", shelf)
    assert outcome.code == 3
    assert "127.0.0.1:1/v1/models" in outcome.err


def test_a_folder_without_adapters_is_refused_with_the_remedy(
    start_double: StartDouble, tmp_path: Path, cli: Cli
) -> None:
    with start_double() as double:
        outcome = cli("conformance", "swap", "--against", double.url, "--adapters", tmp_path)
    assert outcome.code == 2
    assert "--base" in outcome.err
