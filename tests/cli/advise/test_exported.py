"""Advice by the ratings and receipts in the exporter's Parquet files."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pointsman_gateway.request_log.entry import PendingEntry, to_entry

from tests.gateway.doubles.exports import ExportHarness
from tests.gateway.doubles.request_logs import ADAPTED, PLAIN, REQUEST, decision, receipt

Cli = Callable[..., Any]

ANSWERS = 300
DAY = 86_400


@pytest.fixture
def harness(tmp_path: Path) -> ExportHarness:
    return ExportHarness(tmp_path)


def add_answers(harness: ExportHarness, name: str, age: float, **fields: Any) -> None:
    """Exports answers of a path, of which `good` are rated with 1 and the others with 0."""
    path, good, cost = fields.get("path", PLAIN), fields["good"], fields["cost_usd"]
    model = "triage@abc" if path.adapter else "tiny"
    for number in range(ANSWERS):
        made = decision(f"{name}{number}", task="triage", path=path)
        done = receipt(made, seconds=0.5, cost_usd=cost, model=model)
        pending = PendingEntry(time.time() - age, REQUEST, made, done)
        harness.log.append("decisions", [to_entry(pending, store_messages=False).exported])
        rating = {"id": "f1", "unix_ms": round(pending.unix_seconds * 1000), "decision": made.id}
        harness.log.append("feedback", [json.dumps({**rating, "rating": float(number < good)})])


def test_the_path_with_better_ratings_is_recommended(cli: Cli, harness: ExportHarness) -> None:
    add_answers(harness, "p", DAY, good=60, cost_usd=1e-3)
    add_answers(harness, "a", 2 * DAY, path=ADAPTED, good=240, cost_usd=2e-3)
    harness.log.close()
    harness.export()
    outcome = cli("advise", "--from", harness.files, "--json")
    assert outcome.code == 0, outcome.err
    (task,) = json.loads(outcome.out)
    assert (task["task"], task["verdict"], task["path"]) == ("triage", "train", "triage_adapter")
    by_path = {path["path"]: path for path in task["paths"]}
    assert (by_path["small_talk"]["ratings"], by_path["small_talk"]["mean"]) == (ANSWERS, 0.2)
    assert by_path["triage_adapter"]["usd_per_1000"] == pytest.approx(2.0)
    assert by_path["small_talk"]["p95_seconds"] == pytest.approx(0.5, rel=0.03)
    shown = cli("advise", "--from", harness.files)
    assert "triage: train (triage_adapter)" in shown.out


def test_only_the_time_and_the_latest_configuration_of_a_path_count(cli: Cli, harness: ExportHarness) -> None:
    add_answers(harness, "p", DAY, good=60, cost_usd=1e-3)
    add_answers(harness, "earlier", 3 * DAY, path=replace(PLAIN, fingerprint="f0"), good=ANSWERS, cost_usd=1e-3)
    add_answers(harness, "old", 40 * DAY, good=ANSWERS, cost_usd=1e-3)
    harness.log.close()
    harness.export()
    (task,) = json.loads(cli("advise", "--from", harness.files, "--json").out)
    (path,) = task["paths"]
    assert (path["ratings"], path["mean"]) == (ANSWERS, 0.2)
    (task,) = json.loads(cli("advise", "--from", harness.files, "--since", "60d", "--json").out)
    assert task["paths"][0]["ratings"] == 2 * ANSWERS


def test_what_is_wrong_with_the_records_is_said(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("advise", "--from", tmp_path)
    assert outcome.code == 1
    assert "there are no exported decisions in" in outcome.err
    outcome = cli("advise", "--from", tmp_path, "--min-score", "0.5")
    assert "--min-score is for a REPORT, not for --from" in outcome.err
