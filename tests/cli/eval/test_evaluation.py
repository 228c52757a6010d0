"""A labelled set is sent to every path through the real gateway, and the paths are compared."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pointsman_cli.errors import CommandError, Unreachable, UsageError
from pointsman_cli.eval.catalog import Catalog, PathFacts
from pointsman_cli.eval.command import evaluated
from pointsman_cli.eval.dataset import Dataset, read_dataset
from pointsman_cli.eval.html_report import render_html
from pointsman_cli.eval.mixed import compare_choices
from pointsman_cli.eval.plan import AUTO, EvaluationPlan, MetricScorer, Selection, TaskPlan
from pointsman_cli.eval.report import Choice, EvaluatedPath, Mixed, Report, read_report, write_report
from pointsman_cli.eval.runner import Answer, scores_of
from pointsman_cli.eval.statistics import EvalSettings
from pointsman_cli.gateway_http import open_client
from pointsman_scoring.metrics import Exact

from tests.cli.eval.conftest import ROWS, Rows, as_trained, refusing
from tests.gateway.doubles.api_clients import HttpClient
from tests.gateway.doubles.config_folder import IN_TRIAGE
from tests.gateway.doubles.engine import ScriptedEngine, answer
from tests.gateway.doubles.gateway import TRIAGE, Gateway, Neighbours, open_http_client
from tests.gateway.doubles.tenancy import issue
from tests.gateway.doubles.valkey import running_valkey
from tests.gateway.doubles.waiting import found, until

TERMS = EvalSettings(at_once=4, confidence=0.95, examples=5)


async def evaluate(
    url: str,
    file: Path,
    wanted: Selection | None = None,
    *,
    answers: str = "answers.jsonl",
    resume: bool = False,
    terms: EvalSettings = TERMS,
) -> Report:
    client = open_client(url, {"cache-control": "no-store"})
    dataset = read_dataset(file, "")
    return await evaluated(client, dataset, wanted or Selection(), file.parent / answers, resume, terms)


@dataclass(frozen=True)
class Ended:
    code: int | None
    out: str
    err: str


async def command(*arguments: object, **environment: str) -> Ended:
    """Runs a command line in a process of its own; the gateway runs in this one."""
    program = [sys.executable, "-m", "pointsman_cli", *map(str, arguments)]
    process = await asyncio.create_subprocess_exec(*program, stdout=PIPE, stderr=PIPE, env=os.environ | environment)
    out, err = await process.communicate()
    return Ended(process.returncode, out.decode(), err.decode())


def figures(report: Report) -> dict[str, EvaluatedPath]:
    return {path.path: path for path in report.tasks[0].paths}


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


async def test_every_row_is_sent_to_every_path(gateway: Gateway, rows: Rows) -> None:
    found = await evaluate(gateway.url, rows(ROWS))

    (task,) = found.tasks
    assert (task.task, task.metric, task.rows) == ("triage", "exact", 12)
    paths = figures(found)
    assert list(paths) == ["triage_adapter", "triage_few_shot", "safe_start"]
    assert [path.kind for path in paths.values()] == ["lora", "prompt", "rag"]
    assert [path.score.mean for path in paths.values() if path.score] == [1, pytest.approx(1 / 3), 0]
    assert [path.well_formed for path in paths.values()] == [1, pytest.approx(1 / 3), 0]
    assert paths["triage_adapter"].model == TRIAGE
    few_shot = paths["triage_few_shot"]
    assert (few_shot.prompt_tokens, few_shot.cached_tokens, few_shot.completion_tokens) == (100, 40, 1)
    # dollars per million tokens: 1 for prompt tokens, 0.25 for cached ones, 4 for completion tokens
    assert few_shot.usd_per_1000 == pytest.approx({"prompt": 0.06, "cached": 0.01, "completion": 0.004})
    assert paths["triage_adapter"].on_front
    assert not few_shot.on_front
    assert paths["safe_start"].usd_per_1000["retrieval"] == pytest.approx(0.05)
    assert few_shot.total
    assert few_shot.first_token
    assert 0 < few_shot.first_token.p50 <= few_shot.total.p50 <= few_shot.total.p95


async def test_the_report_has_the_score_and_the_cost_of_each_row(
    gateway: Gateway, engine: ScriptedEngine, rows: Rows
) -> None:
    engine.script = refusing(TRIAGE)

    (task,) = (await evaluate(gateway.url, rows(ROWS))).tasks

    assert task.row_ids == tuple(str(number) for number in range(1, 13))
    assert task.metric_settings == {"exact": True}
    paths = {path.path: path for path in task.paths}
    few_shot, adapter = paths["triage_few_shot"], paths["triage_adapter"]
    assert few_shot.row_scores == (1, 0, 0) * 4
    assert few_shot.row_usd == pytest.approx([few_shot.cost / 1000] * 12)
    assert (adapter.row_scores, adapter.row_usd) == ((0,) * 12, (None,) * 12)
    catalog = gateway.components.reloader.current.catalog
    assert few_shot.fingerprint == catalog.paths["triage_few_shot"].fingerprint != ""


async def test_differences_come_with_their_significance(gateway: Gateway, rows: Rows) -> None:
    found = await evaluate(gateway.url, rows(ROWS))

    pairs = {(pair.first, pair.second): pair for pair in found.tasks[0].pairs}
    pair = pairs["triage_adapter", "triage_few_shot"]
    assert pair.difference.mean == pytest.approx(2 / 3)
    assert (pair.test, pair.rows, pair.p_value) == ("mcnemar", 12, pytest.approx(2 / 2**8))
    assert pair.p_adjusted == pytest.approx(2 * 2 / 2**8)  # the second of three comparisons, with Holm's correction
    assert pairs["triage_few_shot", "safe_start"].p_adjusted > 0.05


async def test_the_names_of_paths_are_whole_in_a_narrow_output(gateway: Gateway, rows: Rows) -> None:
    file = rows(ROWS[:2])
    ended = await command("eval", file, "--url", gateway.url, "--data-dir", file.parent, COLUMNS="80")
    assert {"triage_adapter", "triage_few_shot", "safe_start"} <= set(ended.out.split()), ended.err


async def test_auto_on_a_mixed_stream_is_compared_with_fixed_choices(gateway: Gateway, rows: Rows) -> None:
    outside = [
        {"id": f"outside {number}", "text": text, "facts": ["I don't know"], "task": "unknown"}
        for number, text in enumerate(("Who wrote Hamlet, and when?", "Name the moons of Jupiter."))
    ]
    earlier = await evaluate(gateway.url, rows(ROWS), answers="earlier.jsonl")
    file = rows([*ROWS, *outside])
    terms = replace(TERMS, shares={"triage": 0.75, "unknown": 0.25}, chosen_by=earlier)

    found = (await evaluate(gateway.url, file, Selection(is_mixed=True), terms=terms)).mixed

    assert found
    scores = {choice.name: choice.score.mean for choice in found.choices}
    auto = scores.pop("auto")
    assert scores == {
        "always lora": pytest.approx(0.75 * 1 + 0.25),
        "always prompt": pytest.approx(0.75 / 3 + 0.25),
        "always rag": pytest.approx(0.25),
        "best path per task, chosen before": pytest.approx(1),
        "random path": pytest.approx(0.75 * (1 + 1 / 3) / 3 + 0.25),
        "best path per task, in hindsight": pytest.approx(1),
        "best path per request, in hindsight": pytest.approx(1),
    }
    # The gateway assigns most of the rows to no task or another, and they lose what their adapter would have scored.
    assert 0.25 <= auto < 0.5
    assert found.misrouted + found.abstained == found.lost_score == pytest.approx(1 - auto)
    lora = next(choice for choice in found.choices if choice.name == "always lora")
    assert lora.auto_difference.mean == pytest.approx(auto - 1)
    assert lora.auto_difference.low < auto - 1 < lora.auto_difference.high < 0
    assert found.lost_usd_per_1000 > 0  # the default path searches


def mixed_of(tasks: Mapping[str, Mapping[str, Sequence[float]]]) -> Mixed:
    """Compares the ways to serve all tasks, by the scores of each task's paths and of `auto`. A score of 0 for `auto`
    means a failed request. The default path is "small".
    """
    kinds = {"small": "prompt", "searching": "rag", "tuned": "lora"}
    catalog = Catalog("", {}, {name: PathFacts(kind, "", "", "") for name, kind in kinds.items()}, {}, "small", ())
    plans = {
        task: TaskPlan(tuple(path for path in scores if path != AUTO), {}, MetricScorer(Exact()), ())
        for task, scores in tasks.items()
    }
    answers = [
        Answer(f"{task} {row}", task, path, "", score, decided_task=task if path == AUTO and score else "")
        for task, scores in tasks.items()
        for path, of_path in scores.items()
        for row, score in enumerate(of_path)
    ]
    return compare_choices(EvaluationPlan(Dataset(Path(), "", ()), plans, catalog, True), answers, {}, None, 0.95)


def choice_of(mixed: Mixed, name: str) -> Choice:
    return next(choice for choice in mixed.choices if choice.name == name)


def test_a_failed_request_got_no_wrong_task() -> None:
    mixed = mixed_of({"triage": {"small": [1, 1], AUTO: [1, 0]}})
    assert (mixed.misrouted, mixed.abstained, mixed.lost_score) == (0, 0, 0)
    assert choice_of(mixed, "always prompt").auto_difference.mean == -0.5


def test_the_rows_of_each_task_are_resampled_independently() -> None:
    alike = {"small": [1, 0] * 50, AUTO: [1, 1] * 50}
    score = choice_of(mixed_of({"one": alike, "two": alike}), "always prompt").score
    assert score.high - score.low == pytest.approx(2 * 1.96 * (0.25 / 200) ** 0.5, rel=0.1)


def test_a_few_rows_that_are_all_alike_are_no_certainty() -> None:
    mixed = mixed_of({"triage": {"small": [0], AUTO: [1]}, "policy": {"small": [0], AUTO: [1]}})
    auto, small = choice_of(mixed, AUTO), choice_of(mixed, "always prompt")
    assert auto.score.low == pytest.approx(0.342, abs=0.001)  # Wilson, two rows
    assert small.auto_difference.mean == 1
    assert small.auto_difference.low < 0
    assert (auto.auto_difference.low, auto.auto_difference.high) == (0, 0)


def test_the_default_path_answers_tasks_without_a_path_of_the_kind_wherever_it_is_listed() -> None:
    mixed = mixed_of(
        {"triage": {"small": [1], "tuned": [0], AUTO: [1]}, "policy": {"searching": [1], "small": [0], AUTO: [1]}}
    )
    assert choice_of(mixed, "always rag").score.mean == 1


async def test_impossible_choices_of_a_mixed_stream_are_rejected_before_any_request(
    gateway: Gateway, engine: ScriptedEngine, rows: Rows
) -> None:
    same = await evaluate(gateway.url, rows(ROWS), answers="earlier.jsonl")
    engine.bodies.clear()
    for shares, chosen_by, says in (
        ({"letter": 1.0}, None, "--shares names 'letter', of which there are no rows; there are: triage"),
        ({"triage": 0.0}, None, "--shares must have a share above 0"),
        ({}, replace(same, sha256="", tasks=()), "the report has none of the compared paths of task 'triage'"),
        ({}, same, "--chosen-by is a report on the same data set"),
    ):
        terms = replace(TERMS, shares=shares, chosen_by=chosen_by)
        with pytest.raises(UsageError, match=says):
            await evaluate(gateway.url, rows(ROWS), Selection(is_mixed=True), terms=terms)
    assert engine.bodies == []


async def test_the_cache_is_bypassed(neighbours: Neighbours, rows: Rows, tmp_path: Path) -> None:
    neighbours.config.models["cache"] = {"usd_per_hit": 0.0}
    neighbours.config.paths["triage_adapter"]["cache"] = {"exact": True}
    await neighbours.ready()
    async with running_valkey(tmp_path / "valkey") as valkey:
        neighbours.settings |= {"redis_url": valkey.url, "wal_dir": tmp_path / "wal"}
        async with neighbours.gateway() as gateway:
            for once in ("once", "again"):
                await evaluate(gateway.url, rows(ROWS), Selection(paths=["triage_adapter"]), answers=once)
    assert len(neighbours.engine.bodies) == 2 * len(ROWS)


async def test_a_failure_scores_zero_and_is_reported_with_its_code(
    gateway: Gateway, engine: ScriptedEngine, rows: Rows
) -> None:
    engine.script = refusing(TRIAGE)

    path = figures(await evaluate(gateway.url, rows(ROWS)))["triage_adapter"]

    assert path.failures == {"engine_refused": 12}
    assert path.score
    assert (path.score.mean, path.total, path.usd_per_1000) == (0, None, {})


async def test_an_interrupted_evaluation_resumes_with_the_missing_answers(
    gateway: Gateway, engine: ScriptedEngine, rows: Rows
) -> None:
    file = rows(ROWS)
    whole = await evaluate(gateway.url, file)
    kept = file.parent / "answers.jsonl"
    first = kept.read_bytes().splitlines(keepends=True)
    kept.write_bytes(b"".join(first[:20]) + first[20][:30])  # as if killed while writing a line
    engine.bodies.clear()

    again = await evaluate(gateway.url, file, resume=True)

    assert len(engine.bodies) == len(first) - 20
    places = Counter((line["row"], line["path"]) for line in lines(kept)[1:])
    assert set(places.values()) == {1}
    assert len(places) == 3 * len(ROWS)
    assert [path.score for path in again.tasks[0].paths] == [path.score for path in whole.tasks[0].paths]


async def test_failed_requests_are_repeated_on_resumption(gateway: Gateway, engine: ScriptedEngine, rows: Rows) -> None:
    file = rows(ROWS)
    engine.script = refusing(TRIAGE)
    await evaluate(gateway.url, file)
    engine.script = as_trained
    engine.bodies.clear()

    again = figures(await evaluate(gateway.url, file, resume=True))

    assert {body["model"] for body in engine.bodies} == {TRIAGE}
    assert again["triage_adapter"].failures == {}


async def test_a_different_evaluation_cannot_be_resumed(gateway: Gateway, rows: Rows) -> None:
    file = rows(ROWS)
    await evaluate(gateway.url, file)
    for wanted, differs in [
        (Selection(metric="json_fields"), "tasks differ"),
        (Selection(paths=["letter"]), "paths differ"),
    ]:
        with pytest.raises(UsageError, match=differs):
            await evaluate(gateway.url, file, wanted, resume=True)


async def test_answers_at_other_prices_are_not_continued(gateway: Gateway, neighbours: Neighbours, rows: Rows) -> None:
    file = rows(ROWS[:2])
    await evaluate(gateway.url, file)
    neighbours.config.models["models"]["tiny"]["usd_per_million_tokens"]["prompt"] = 2.0
    neighbours.config.write()
    await gateway.components.reloader.reload()
    with pytest.raises(UsageError, match="prices differ"):
        await evaluate(gateway.url, file, resume=True)


async def test_answers_of_another_base_model_are_not_continued(
    gateway: Gateway, neighbours: Neighbours, rows: Rows
) -> None:
    file = rows(ROWS[:2])
    await evaluate(gateway.url, file)
    neighbours.config.models["engines"]["local"]["upstream"] = "another"
    neighbours.config.write()
    await gateway.components.reloader.reload()
    with pytest.raises(UsageError, match="models differ"):
        await evaluate(gateway.url, file, resume=True)


async def test_existing_answers_are_never_overwritten(gateway: Gateway, engine: ScriptedEngine, rows: Rows) -> None:
    file = rows(ROWS)
    await evaluate(gateway.url, file, Selection(paths=["triage_adapter"]))
    engine.bodies.clear()
    with pytest.raises(UsageError, match=r"exists already; --resume .*answers.jsonl continues it"):
        await evaluate(gateway.url, file, Selection(paths=["triage_adapter"]))
    assert engine.bodies == []


async def test_nothing_is_sent_if_answers_cannot_be_stored(
    gateway: Gateway, engine: ScriptedEngine, rows: Rows, tmp_path: Path
) -> None:
    (tmp_path / "a_file").touch()
    with pytest.raises(UsageError, match=r"cannot write .*a_file/answers.jsonl: "):
        await evaluate(gateway.url, rows(ROWS), answers="a_file/answers.jsonl")
    assert engine.bodies == []


UNUSABLE = [
    ({}, Selection(paths=["nowhere"]), "there is no path 'nowhere'; known: handbook, letter, safe_start"),
    ({}, Selection(metric="exakt"), "unknown metric 'exakt'; known: exact, json_fields"),
    ({}, Selection(metric="regex=("), r"bad pattern '\('"),
    ({}, Selection(metric="judge=nobody"), "there is no model 'nobody' for the judge; known: auto, tiny"),
    ({}, Selection(metric="contains"), r"row 1 \(task 'triage'\): a fact is a text"),
    ({"task": "chat"}, Selection(), "task 'chat' has no metric; write one in tasks.yaml, or name one with --metric"),
    ({"task": "sonnets"}, Selection(), "no task 'sonnets'; known: chat, policy, triage; for any other, give"),
]


async def test_an_impossible_evaluation_is_rejected_before_any_request(
    gateway: Gateway, engine: ScriptedEngine, rows: Rows
) -> None:
    for row, wanted, says in UNUSABLE:
        file = rows([{**ROWS[0], **row}])
        with pytest.raises(UsageError, match=says):
            await evaluate(gateway.url, file, wanted)
        assert engine.bodies == []
        assert not (file.parent / "answers.jsonl").exists()


async def test_a_task_unknown_to_the_gateway_can_be_evaluated_with_named_paths_and_metric(
    gateway: Gateway, rows: Rows
) -> None:
    rows_of_it = [{**row, "task": "sorting"} for row in ROWS]
    found = await evaluate(gateway.url, rows(rows_of_it), Selection(paths=["triage_adapter"], metric="exact"))
    assert [(task.task, len(task.paths), len(task.pairs)) for task in found.tasks] == [("sorting", 1, 0)]


async def test_a_judge_model_scores_answers_without_a_metric(
    gateway: Gateway, engine: ScriptedEngine, rows: Rows
) -> None:
    def script(body: Any) -> Any:
        if "You judge answers" not in body["messages"][0]["content"]:
            return as_trained(body)
        case = json.loads(body["messages"][-1]["content"])
        assert case["expected"] == {"intent": "refund", "urgency": "low"} or case["request"] != IN_TRIAGE
        return answer("Hm." if "don't know" in case["answer"] else "All of it is there. Score: 9")

    engine.script = script
    found = await evaluate(gateway.url, rows(ROWS), Selection(metric="judge=tiny"))

    paths = figures(found)
    assert paths["triage_adapter"].score
    assert (paths["triage_adapter"].score.mean, paths["triage_adapter"].unscored) == (pytest.approx(0.9), 0)
    assert (paths["safe_start"].score, paths["safe_start"].unscored) == (None, 12)
    assert paths["triage_adapter"].judge_usd == pytest.approx(12 * 24e-6)
    assert {(pair.first, pair.second) for pair in found.tasks[0].pairs} == {("triage_adapter", "triage_few_shot")}


async def test_an_exception_in_a_users_metric_ends_the_evaluation_and_names_the_row(
    gateway: Gateway, rows: Rows, tmp_path: Path
) -> None:
    own = tmp_path / "own.py"
    own.write_text("def score(answer, expected):\n    return 0 if not answer else {'refund': 1}[expected['intent']]\n")
    file = rows(ROWS)
    wanted = Selection(paths=["triage_adapter"], metric=f"entry_point={own}:score")
    with pytest.raises(CommandError, match=r"row \d+: entry_point .*own.py:score failed: KeyError: 'lost_item'"):
        await evaluate(gateway.url, file, wanted)
    scores = [line["score"] for line in lines(file.parent / "answers.jsonl")[1:]]
    assert scores == [1] * len(scores)


async def test_if_the_gateway_stops_the_evaluation_ends_and_keeps_its_answers(
    neighbours: Neighbours, rows: Rows
) -> None:
    file = rows(ROWS)
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        await evaluate(gateway.url, file, Selection(paths=["triage_adapter"]))
    with pytest.raises(Unreachable, match="no gateway answers at"):
        await evaluate(gateway.url, file, Selection(paths=["triage_adapter"]), resume=True)
    assert len(lines(file.parent / "answers.jsonl")) == 1 + len(ROWS)


async def test_a_written_report_is_read_back_unchanged(gateway: Gateway, rows: Rows, tmp_path: Path) -> None:
    found = await evaluate(gateway.url, rows(ROWS))
    write_report(found, tmp_path / "report.json")
    assert read_report(tmp_path / "report.json") == found
    (tmp_path / "bad.json").write_text('{"version": 1}')
    with pytest.raises(UsageError, match="is not a report of `pointsman eval --json`: dataset: Field required"):
        read_report(tmp_path / "bad.json")


async def test_the_page_shows_labels_and_disagreements_and_escapes_them(
    gateway: Gateway, engine: ScriptedEngine, rows: Rows
) -> None:
    hostile = "<script>alert(1)</script>"
    engine.script = lambda body: answer(hostile) if body["model"] == TRIAGE else as_trained(body)
    found = await evaluate(gateway.url, rows([*ROWS, {**ROWS[0], "text": f"{hostile} & more"}]))

    shown = render_html(found)

    assert hostile not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in shown
    assert "<script" not in shown
    assert "http" not in shown.replace("http-equiv", "")  # nothing is fetched
    (confusion,) = [each for each in found.tasks[0].confusions if each.path == "triage_few_shot"]
    assert (confusion.field, confusion.labels) == ("intent", ("lost_item", "refund"))
    assert confusion.answered == ("lost_item", "refund", "(no JSON)")
    assert [sum(row) for row in confusion.counts] == [6, 7]


async def test_the_command_prints_a_table_and_writes_both_files(gateway: Gateway, rows: Rows, tmp_path: Path) -> None:
    arguments = ["eval", rows(ROWS), "--url", gateway.url, "--data-dir", tmp_path / "home", "--concurrency", "2"]
    ended = await command(*arguments, "--json", tmp_path / "r.json", "--html", tmp_path / "r.html")
    assert ended.code == 0, ended.err
    assert "triage: 12 rows, exact; intervals of 95%" in ended.out
    assert "$ per 1,000: mean of the receipts" in ended.out
    assert "36 requests, 0 answered before" in ended.err
    assert read_report(tmp_path / "r.json").at_once == 2
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    (kept,) = (tmp_path / "home" / "evaluations").iterdir()
    assert len(lines(kept)) == 1 + 36


async def test_an_interrupted_evaluation_says_how_to_resume(
    gateway: Gateway, engine: ScriptedEngine, rows: Rows, tmp_path: Path
) -> None:
    never = asyncio.Event()
    engine.script = lambda body: [never] if len(engine.bodies) > 5 else as_trained(body)
    program = [sys.executable, "-m", "pointsman_cli", "eval", str(rows(ROWS)), "--url", gateway.url]
    kept = tmp_path / "kept.jsonl"
    process = await asyncio.create_subprocess_exec(*program, "--answers", str(kept), stdout=PIPE, stderr=PIPE)
    await until(lambda: kept.is_file() and len(lines(kept)) == 1 + 5, within=60)
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 130
    assert f"what was answered is kept; the same command with --resume {kept} goes on" in err.decode()


async def test_the_api_key_is_taken_from_the_named_variable(neighbours: Neighbours, rows: Rows, tmp_path: Path) -> None:
    arguments = ["eval", rows(ROWS), "--paths", "triage_adapter", "--data-dir", tmp_path]
    async with running_valkey(tmp_path / "valkey") as valkey:
        key = (await issue(valkey.url)).credential.text
        neighbours.settings |= {"auth": "on", "redis_url": valkey.url, "wal_dir": tmp_path / "wal"}
        await neighbours.ready()
        async with neighbours.gateway() as gateway:
            refused = await command(*arguments, "--url", gateway.url)
            unset = await command(*arguments, "--url", gateway.url, "--key-env", "OUR_KEY")
            answered = await command(*arguments, "--url", gateway.url, "--key-env", "OUR_KEY", OUR_KEY=key)
    assert refused.code == 1
    assert "(missing_key, HTTP 401)" in refused.err
    assert (unset.code, "OUR_KEY holds no key" in unset.err) == (2, True)
    assert answered.code == 0, answered.err
    assert "1.000" in answered.out


async def test_a_server_that_is_not_a_gateway_is_reported(engine: ScriptedEngine, rows: Rows) -> None:
    with pytest.raises(CommandError, match="has no /v1/tasks: it is not a Pointsman gateway"):
        await evaluate(engine.url, rows(ROWS))


async def test_scores_count_as_ratings_once_and_for_the_evaluated_configuration(
    neighbours: Neighbours, rows: Rows, tmp_path: Path
) -> None:
    terms = {"paths": ["triage_few_shot", "triage_adapter"], "quality_floor": 0.6, "min_samples": 10}
    neighbours.config.tasks["triage"]["policy"] = {"best_value": {**terms, "exploration_rate": 0}}
    async with running_valkey(tmp_path / "valkey") as valkey:
        neighbours.settings |= {"redis_url": valkey.url, "wal_dir": tmp_path / "wal", "reload_seconds": 0.05}
        await neighbours.ready()
        async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
            api, file, answers = HttpClient(client), rows(ROWS), tmp_path / "answers.jsonl"
            assert (await api.route(IN_TRIAGE))["path"] == "triage_few_shot"

            at = ("--url", gateway.url, "--data-dir", tmp_path, "--as-ratings")
            ended = await command("eval", file, *at, "--answers", answers)
            assert "36 scores sent: those of 3 of 3 paths count as ratings" in ended.err

            async def moved() -> bool:
                return bool((await api.route(IN_TRIAGE))["path"] == "triage_adapter")

            assert await found(moved)
            explanations = {row["path"]: row["reason"] for row in (await api.route(IN_TRIAGE))["considered"]}
            assert explanations["triage_adapter"].startswith("good enough (at least 0.69, 12 from evaluations)")
            assert "of 12 ratings, 12 from evaluations: not known to reach the" in explanations["triage_few_shot"]

            ended = await command("eval", file, *at, "--resume", answers)
            assert (ended.code, "36 scores sent" in ended.err) == (0, True)
            shown = await client.get("/console/api/overview", headers={"x-pointsman-console": "1"})
            [task] = [task for task in shown.json()["overview"]["tasks"] if task["task"] == "triage"]
            quality = {path["path"]: path["quality"] for path in task["paths"]}["triage_adapter"]
            assert (quality["ratings"], quality["mean"], quality["evaluated"]) == (12, 1.0, 12)

            neighbours.config.paths["triage_adapter"]["max_tokens"] = 77
            neighbours.config.write()
            await until(lambda: gateway.known("triage", "triage_adapter").evaluated == 0)
            assert gateway.known("triage", "triage_few_shot").evaluated == 12

            async def ignored() -> list[dict[str, str]]:
                reply = (await client.post("/v1/evaluations", json=scores_of(answers))).json()
                assert reply["counted"] + len(reply["ignored"]) == 3
                return list(reply["ignored"])

            reason = "path 'triage_adapter' is configured differently now; evaluate it again"
            assert await found(ignored) == [{"task": "triage", "path": "triage_adapter", "reason": reason}]


async def test_scores_that_the_gateway_cannot_keep_are_in_the_file(gateway: Gateway, rows: Rows) -> None:
    file = rows(ROWS[:1])
    ended = await command("eval", file, "--url", gateway.url, "--data-dir", file.parent, "--as-ratings")
    assert ended.code == 1
    assert "triage_adapter" in ended.out  # the report
    assert "did not take the scores as ratings: this gateway has no request log, so results cannot be kept" in ended.err
    assert "--as-ratings sends them again" in ended.err
