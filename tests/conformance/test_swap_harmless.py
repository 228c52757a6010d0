"""The swap test harms no engine, says what it has not tested, and gives no false alarm."""

import asyncio
import json
import time
from pathlib import Path

import pytest
from pointsman_cli.conformance.adapter_shelf import AdapterShelf
from pointsman_cli.conformance.bench import Bench
from pointsman_cli.conformance.command_control import run_command
from pointsman_cli.conformance.controls import RuntimeControl
from pointsman_cli.conformance.errors import LimitReached
from pointsman_cli.conformance.findings import Property
from pointsman_cli.conformance.learning import learn
from pointsman_cli.conformance.openai_api import OpenAIApi, open_api
from pointsman_cli.conformance.under_load import run_load
from pointsman_cli.processes import alive_processes, process_tree

from tests.cli.conformance.conftest import KEY, StartDouble, failed, make_shelf, swap_options, verdicts
from tests.cli.conftest import Cli


@pytest.mark.parametrize("seed", range(3))
def test_rounding_is_no_fault(start_double: StartDouble, tmp_path: Path, cli: Cli, seed: int) -> None:
    shelf = make_shelf(tmp_path / "adapters", seed + 1)
    with start_double("", "--rounding", "0.4", "--seed", str(seed)) as double:
        restart = ("--slots", 4, "--restart-command", double.restart_command)
        outcome = cli(*swap_options(double, shelf, *restart, "--json"))
    found = json.loads(outcome.out)
    assert set(verdicts(found).values()) == {"pass"}, [each for each in found["properties"] if each["examples"]]
    assert outcome.code == 0


def test_a_stream_without_an_end_is_a_failed_request(start_double: StartDouble, shelf: Path, cli: Cli) -> None:
    with start_double("hang") as double:
        found = json.loads(cli(*swap_options(double, shelf, "--timeout", 3, "--json")).out)
    assert failed(found) == {"failed-requests"}
    (examples,) = [each["examples"] for each in found["properties"] if each["property"] == "failed-requests"]
    assert any("no end within 3 s" in example for example in examples)


def test_an_engine_that_takes_unknown_names_for_the_base_model_reads_no_files(
    start_double: StartDouble, shelf: Path, cli: Cli
) -> None:
    with start_double("unknown-as-base") as double:
        found = json.loads(cli(*swap_options(double, shelf, "--json")).out)
    assert failed(found) == {"wrong-version"}
    assert verdicts(found)["file-names"] == "pass"


def test_a_path_that_fails_inside_of_the_server_is_a_weakness(start_double: StartDouble, shelf: Path, cli: Cli) -> None:
    with start_double("read-error") as double:
        outcome = cli(*swap_options(double, shelf, "--json"))
    assert verdicts(json.loads(outcome.out))["file-names"] == "weak"
    assert outcome.code == 0


def test_the_folder_of_an_adapter_that_cannot_be_unloaded_is_kept(
    start_double: StartDouble, shelf: Path, cli: Cli
) -> None:
    """vLLM ends if it reads an adapter again whose folder is gone."""
    with start_double("kept") as double:
        found = json.loads(cli(*swap_options(double, shelf, "--json")).out)
        loaded = set(double.models()) - {"tiny-base"}
    assert loaded
    assert loaded <= {folder.name for folder in (shelf / "served").iterdir()}
    assert all(any(f"{name} may still be loaded" in note for note in found["notes"]) for name in loaded)


def test_an_overloaded_engine_is_asked_again_after_a_pause(start_double: StartDouble, shelf: Path, cli: Cli) -> None:
    with start_double("overload") as double:
        outcome = cli(*swap_options(double, shelf, "--concurrency", 12, "--json"))
        sent = double.sent()
    found = json.loads(outcome.out)
    assert (outcome.code, verdicts(found)["failed-requests"]) == (0, "weak"), found
    refused = next(each["weak"] for each in found["properties"] if each["property"] == "failed-requests")
    assert 0 < refused <= 12 * (4 + 2)  # one a second, for each of the requests at once
    assert len(sent) < 2000


def test_a_dry_run_is_one_json_document(start_double: StartDouble, shelf: Path, cli: Cli) -> None:
    with start_double() as double:
        outcome = cli(*swap_options(double, shelf, "--dry-run", "--json"))
        assert double.sent() == []
    planned = json.loads(outcome.out)
    assert (planned["dry_run"], planned["control"], planned["base_model"]) == (True, "vllm", "tiny-base")
    assert planned["limits"] == {"requests": 2000, "seconds": 600.0}


def test_a_load_that_the_limit_of_requests_leaves_out_is_not_passed(
    start_double: StartDouble, shelf: Path, cli: Cli
) -> None:
    with start_double() as double:
        outcome = cli(*swap_options(double, shelf, "--max-requests", 150, "--json"))
    found = json.loads(outcome.out)
    assert [each["check"] for each in found["not_carried_out"]] == ["load"]
    assert (outcome.code, found["overall"]) == (3, "untested")


def test_the_document_and_the_table_explain_the_scale(start_double: StartDouble, shelf: Path, cli: Cli) -> None:
    with start_double("file-names") as double:
        found = json.loads(cli(*swap_options(double, shelf, "--json")).out)
        table = cli(*swap_options(double, shelf)).out
    assert set(found["scale"]) == {"pass", "weak", "fail", "untested"}
    assert all(f"scale: {grade}: {text}" in table for grade, text in found["scale"].items())


async def test_what_was_seen_before_the_limit_of_time_counts(start_double: StartDouble, shelf: Path) -> None:
    with start_double("wrong-version") as double:
        limits = {"max_requests": 5000, "timeout_seconds": 60.0}
        async with open_api(double.url, KEY, max_seconds=600, **limits) as (api, http):  # type: ignore[arg-type]
            control = RuntimeControl(http, AdapterShelf(shelf, str(shelf)), "vllm", "tiny-base")
            bench = Bench(api, control, AdapterShelf(shelf, str(shelf)), "tiny-base", "swap-test-x", lambda _: None)
            chosen = await learn(bench)
            bench.api = OpenAIApi(http, 5000, 4.0, 60.0)
            bench.api.logprob_fields = api.logprob_fields
            with pytest.raises(LimitReached):
                await run_load(bench, chosen, 60.0, 6)
    assert bench.findings.is_failed(Property.WRONG_VERSION)


async def test_a_command_may_leave_a_program_running() -> None:
    started = time.monotonic()
    await run_command(["sh", "-c", "sleep 30 & echo started"])
    assert time.monotonic() - started < 20


async def test_a_cancelled_command_is_killed_with_what_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    command = asyncio.create_task(
        run_command(["sh", "-c", f"sleep 300 & echo $! >{mark}.new; mv {mark}.new {mark}; wait"])
    )
    async with asyncio.timeout(60):
        while not mark.exists():  # noqa: ASYNC110 -- the program tells nobody
            await asyncio.sleep(0.05)
    command.cancel()
    with pytest.raises(asyncio.CancelledError):
        await command
    assert alive_processes(process_tree(int(mark.read_text()))) == ()
