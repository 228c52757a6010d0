"""The help desk experiment: its configuration and test rows are valid, and its page shows what was measured."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from pointsman_cli.eval.report import EvaluatedPath, LatencyQuantiles, Pair, Report, TaskReport
from pointsman_gateway import bootstrap
from pointsman_gateway.config.load import load_config
from pointsman_scoring import metric_from
from pointsman_scoring.intervals import Interval

from benchmarks.experiment import adapters, chart, table
from benchmarks.experiment.folder import EXAMPLE, read_rows, write_folder
from benchmarks.experiment.tasks import TASKS, paths_of

SLOTS = ("from", "to", "date", "time", "booking", "item", "amount")
"""The slots of a triage message, in the order of a right answer."""


def beginnings(file: Path) -> Iterator[str]:
    """Yields the checksum of the first line, of the first two lines, and so on; they stay the same if rows are only
    appended.
    """
    read = hashlib.sha256()
    for line in file.read_bytes().splitlines(keepends=True):
        read.update(line)
        yield read.hexdigest()


REPORTED = {checksum for file in (EXAMPLE / "heldout").glob("*.jsonl") for checksum in beginnings(file)}


@pytest.mark.parametrize("report", sorted(EXAMPLE.glob("adapters/*/training.json")))
def test_no_reported_set_selected_the_weights_of_a_committed_adapter(report: Path) -> None:
    found = json.loads(report.read_text())
    # Without `best_step` the weights are those of the last step: nothing was selected.
    assert "best_step" not in found or found["data"]["heldout_sha256"] not in REPORTED


def test_no_training_of_the_example_is_given_a_reported_set() -> None:
    makefile = (EXAMPLE.parents[1] / "Makefile").read_text()
    commands = re.findall(r"^\t.*pointsman train (?:.*\\\n)*.*$", makefile, re.MULTILINE)
    assert len(commands) == 3
    assert not [command for command in commands if "heldout" in command]


def figures(path: str, kind: str, score: float, tokens: float) -> EvaluatedPath:
    return EvaluatedPath(
        path=path, kind=kind, adapter="a@prod" if kind in ("lora", "hybrid") else "", model="tiny", answers=10,
        failures={}, unscored=0, score=Interval(score, score / 2, (1 + score) / 2), well_formed=1.0,
        first_token=LatencyQuantiles(0.1, 0.2), total=LatencyQuantiles(1, 2), prompt_tokens=tokens, cached_tokens=0.0,
        completion_tokens=10.0, prompt_tokens_p95=tokens, context_window=4096, usd_per_1000={"prompt": tokens / 1000},
        judge_usd=0.0, on_front=False,
    )  # fmt: skip


def report(task: str, scores: Mapping[str, float]) -> Report:
    """Returns a report with one path of each kind. Prompts have 200 tokens without an adapter, 50 with one."""
    paths = tuple(
        figures(f"{task}_{kind}", kind, score, 200 if kind in ("prompt", "rag") else 50)
        for kind, score in scores.items()
    )
    pair = Pair(paths[0].path, paths[2].path, 10, Interval(-0.1, -0.2, 0), 0.01, 0.02, "mcnemar")
    found = TaskReport(task, "exact", 10, paths, (pair,), (), (), 0)
    return Report(1, f"{task}.jsonl", "0" * 64, "abc", 8, 0.95, (found,))


GOOD = {"prompt": 0.3, "rag": 0.1, "lora": 0.6, "hybrid": 0.5}
REPORTS = {
    "triage": report("triage", GOOD),
    "policy_question": report("policy", {"prompt": 0.1, "rag": 0.7, "lora": 0.2, "hybrid": 0.6}),
    "branded_reply": report("letter", {"prompt": 0.3, "rag": 0.4, "lora": 0.5, "hybrid": 0.9}),
    "fare_sum": report("fare", dict.fromkeys(GOOD, 0.0)),
}


def test_the_gateway_accepts_the_experiments_configuration(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "helpdesk", {"policy_alone": tmp_path, "fares": tmp_path})
    config = load_config(folder / "config", {})
    bootstrap.check_config(config)
    for task in TASKS:
        kinds = {bootstrap.to_path(path, config.paths.paths[path], config).kind for path in paths_of(task)}
        assert kinds == {"prompt", "rag", "lora", "hybrid"}, task


@pytest.mark.parametrize("task", TASKS)
def test_held_out_rows_can_be_scored_and_occur_in_no_prompt_or_training_set(tmp_path: Path, task: str) -> None:
    folder = write_folder(tmp_path / "helpdesk", {})
    config = load_config(folder / "config", {})
    metric = config.tasks.tasks[task].metric
    assert metric
    scorer = metric_from(metric.model_dump(exclude_unset=True))
    seen = {row.text.casefold() for row in config.examples[task]}
    seen |= {row["text"].casefold() for recipe in adapters.recipes().values() for row in recipe.rows}
    seen |= {row["text"].casefold() for file in (EXAMPLE / "training").glob("*.jsonl") for row in read_rows(file)}
    for row in read_rows(EXAMPLE / "heldout" / f"{task}.jsonl"):
        expected = row.get("facts", row.get("output"))
        assert scorer.score(_right_answer(expected), expected) == 1, row
        assert row["text"].casefold() not in seen


@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_300_different_held_out_rows(task: str) -> None:
    texts = [row["text"].casefold() for row in read_rows(EXAMPLE / "heldout" / f"{task}.jsonl")]
    assert len(texts) == len(set(texts)) == 300


def test_the_slots_of_a_held_out_message_are_copied_from_it() -> None:
    validators = yaml.safe_load((EXAMPLE / "config/tasks.yaml").read_text())["tasks"]["triage"]["validators"]
    schema = next(each["json_schema"] for each in validators if "json_schema" in each)["properties"]
    for row in read_rows(EXAMPLE / "heldout/triage.jsonl"):
        output = row["output"]
        assert list(output) == ["intent", "slots", "urgency"], row
        assert output["intent"] in schema["intent"]["enum"], row
        assert output["urgency"] in schema["urgency"]["enum"], row
        assert list(output["slots"]) == [slot for slot in SLOTS if slot in output["slots"]], row
        assert all(value in row["text"] for value in output["slots"].values()), row


@pytest.mark.parametrize("task", ["policy_question", "branded_reply"])
def test_the_facts_of_a_held_out_row_are_in_its_page_of_the_handbook(task: str) -> None:
    contains = metric_from({"contains": True})
    for row in read_rows(EXAMPLE / "heldout" / f"{task}.jsonl"):
        page = (EXAMPLE / "handbook" / f"{row['source']}.md").read_text("utf-8")
        facts = row["facts"] if task == "policy_question" else row["facts"][3:]
        assert contains.score(page, facts) == 1, row


def _right_answer(expected: object) -> str:
    if isinstance(expected, list):
        return " ".join(fact if isinstance(fact, str) else fact[0] for fact in expected)
    return expected if isinstance(expected, str) else json.dumps(expected)


def test_the_table_compares_each_claim_with_the_measurement() -> None:
    page = f"Before.\n{table.BEGIN}\nSTALE\n{table.END}\nAfter.\n"
    written = table.insert_details(page, REPORTS, {"a": 0.01})
    assert written.startswith("Before.\n")
    assert written.endswith("\nAfter.\n")
    assert "STALE" not in written
    assert "0.600 against 0.300 (triage_prompt): +30.0 points, p 0.020 | yes |" in written
    assert "50 against 200: 0.25 | yes |" in written
    assert "retrieval beats the adapter | 0.700 (policy_rag) against 0.200 | yes |" in written
    assert "branded_reply: a hybrid beats both | 0.900 (letter_hybrid) against 0.500 (letter_lora), 0.400" in written
    assert written.count("| **no** |") == 3  # no hybrid is the best of triage, policy questions and sums


def test_the_details_show_all_paths_of_each_task_and_the_advice() -> None:
    written = table.insert_details(f"{table.BEGIN}\n{table.END}\n", REPORTS, {"a": 0.01})
    assert written.count("| path | kind | score |") == written.count("`pointsman advise` at 100,000") == 4
    assert "| lora | lora | **0.600** |" in written
    assert table.insert_details(written, REPORTS, {"a": 0.01}) == written


def test_the_chart_shows_every_path() -> None:
    drawn = chart.draw_chart(REPORTS)
    assert drawn.count("95 % interval") == 1
    for task in REPORTS.values():
        for path in task.tasks[0].paths:
            assert f"{path.prompt_tokens:.0f} · " in drawn
    assert drawn.count('fill="#f0f2f5"') == 16
