"""The experiment on public data never mixes its splits, resumes where it stopped, and reports what was measured."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pointsman_cli.eval.report import Choice, EvaluatedPath, Mixed, Report, TaskReport, write_report
from pointsman_gateway import bootstrap
from pointsman_gateway.config.load import load_config
from pointsman_gateway.domain import Passage
from pointsman_scoring.intervals import Interval

from benchmarks.experiment.folder import Row, write_rows
from benchmarks.experiment.services import check_outcomes
from benchmarks.experiment_public import __main__ as program
from benchmarks.experiment_public import (
    baselines,
    cells,
    folder,
    measure,
    mixed,
    page,
    predicted,
    scoring,
    sets,
    training,
)
from benchmarks.experiment_public.cells import Cell, all_cells
from benchmarks.experiment_public.evidence import Evidence
from benchmarks.experiment_public.measure import Setting
from benchmarks.experiment_public.result_files import Answer, ResultFolder, read_answers
from benchmarks.experiment_public.sets import PublicSet
from benchmarks.gateway_load.machine import CannotMeasure

FIGURES = EvaluatedPath(
    path="", kind="prompt", adapter="", model="", answers=10, failures={}, unscored=0, score=Interval(1, 0, 1),
    well_formed=1.0, first_token=None, total=None, prompt_tokens=9, cached_tokens=0, completion_tokens=1,
    prompt_tokens_p95=9, context_window=4096, usd_per_1000={}, judge_usd=0, on_front=False,
)  # fmt: skip
COLOURS = ("red", "green", "blue", "brown", "pink", "black")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Writes small files in the layout of the published ones; some texts occur in two parts of a data set."""
    at = tmp_path / "data"
    for intent in ("AddToPlaylist", "GetWeather"):
        for part, numbers in (("train_{}_full", range(260)), ("validate_{}", range(250, 270))):
            rows = [{"data": [{"text": f"{intent} "}, {"text": f"item {n}", "entity": "item"}]} for n in numbers]
            twice = {"data": [{"text": "a", "entity": "item"}, {"text": f" b{part}", "entity": "item"}]}
            _write(at / "routing/snips" / intent / f"{part.format(intent)}.json", {intent: [*rows, twice]})
    names = ("train", "val", "test")
    parts = {part: [[f"{part} {n} {label}", label] for n in range(90) for label in ("a_b", "c")] for part in names}
    repeated = [*parts["val"][:9], *parts["test"], ["new", "a_b"], ["NEW", "a_b"]]
    _write(
        at / "routing/clinc150/data_full.json",
        parts | {"train": [*parts["train"], *repeated], "oos_test": [["far 1", "oos"], ["far 2", "oos"]]},
    )
    articles = [{"paragraphs": [_paragraph(article, place) for place in range(5)]} for article in range(48)]
    _write(at / "qa/xquad-en/xquad.en.json", {"data": articles})
    return at


def _write(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def _paragraph(article: int, place: int) -> dict[str, object]:
    questions = [
        {
            "id": f"{article}.{place}.{n}",
            "question": f"What is {article} {place} {n}?",
            "answers": [{"text": f"it {n}"}],
        }
        for n in range(5)
    ]
    return {"context": f"{article} {place}: it 0, it 1, it 2, it 3, it 4.", "qas": questions}


def plain(rows: Sequence[Row]) -> set[str]:
    return {row["text"].casefold() for row in rows}


@pytest.mark.parametrize("name", cells.SETS)
def test_no_text_is_in_two_parts_of_a_set(data: Path, name: str) -> None:
    public = sets.load_set(name, data)
    parts = [plain(part) for part in (public.pool, public.validation, public.test)]
    assert all(parts)
    assert len(parts[0]) == len(public.pool)
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]


def test_a_snips_row_has_its_slots_and_rows_with_a_slot_twice_are_left_out(data: Path) -> None:
    public = sets.load_set("snips", data)
    row = next(row for row in public.test if row["text"] == "GetWeather item 255")
    assert json.loads(row["output"]) == {"intent": "GetWeather", "slots": {"item": "item 255"}}
    assert not any("b" in row["text"].split() for row in (*public.pool, *public.test))


def test_test_questions_of_xquad_are_half_of_other_articles_and_held_out_from_trained_paragraphs(data: Path) -> None:
    public = sets.load_set("xquad", data)
    trained = {row["paragraph"] for row in public.pool}
    parts = {part: [row for row in public.test if row["id"].startswith(part)] for part in ("seen", "unseen")}
    assert (len(parts["seen"]), len(parts["unseen"])) == (150, 350)
    assert all(row["paragraph"] in trained for row in parts["seen"])
    articles = {paragraph.split("-")[0] for paragraph in trained}
    assert articles.isdisjoint(row["paragraph"].split("-")[0] for row in (*parts["unseen"], *public.validation))
    assert len(public.paragraphs) == 240


def test_a_longer_draw_begins_with_the_shorter_one_and_is_balanced(data: Path) -> None:
    public = sets.load_set("snips", data)
    rows = public.training_rows(100, seed=1)
    assert rows[:30] == public.training_rows(30, seed=1)
    assert rows != public.training_rows(100, seed=2)
    assert [row["label"] for row in rows].count("GetWeather") == 50


@pytest.mark.parametrize(
    ("metric", "answer", "expected", "score"),
    [
        (scoring.exact, '{"slots": {"a": "x"}, "intent": "I"}', '{"intent": "I", "slots": {"a": "x"}}', 1),
        (scoring.exact, '{"intent": "I", "slots": {}}', '{"intent": "I", "slots": {"a": "x"}}', 0),
        (scoring.exact, " Book  Hotel\n", "book hotel", 1),
        (scoring.exact, "They want a room. Answer: book hotel", "book hotel", 1),
        (scoring.exact, "They want to book hotel", "book hotel", 0),
        (scoring.intent, '{"intent": "I", "slots": {}}', '{"intent": "I", "slots": {"a": "x"}}', 1),
        (scoring.intent, "I", '{"intent": "I", "slots": {}}', 0),
        (scoring.squad, "The Eiffel Tower.", "eiffel tower", 1),
        (scoring.squad, '{"answer": "the Eiffel Tower"}', "Eiffel Tower", 1),
        (scoring.squad, "It is the Eiffel Tower", "Eiffel Tower", 0),
        (scoring.squad_f1, "big Eiffel Tower", "Eiffel Tower", 0.8),
        (scoring.squad_f1, "Rome", "Eiffel Tower", 0),
    ],
)
def test_scores(metric: object, answer: str, expected: str, score: float) -> None:
    assert callable(metric)
    assert metric(answer, expected) == pytest.approx(score)


def test_the_gateway_accepts_the_configuration_of_every_path(data: Path, tmp_path: Path) -> None:
    public = {name: sets.load_set(name, data) for name in cells.SETS}
    model = folder.Model("/models/other", (1.0, 0.1, 2.0))
    kinds = {
        "rag": "rag",
        "few_shot_rag": "rag",
        "lora": "lora",
        "full_fine_tune": "tuned",
        "lora_few_shot": "hybrid",
        "raft_lora_rag": "hybrid",
        "lora_rag": "hybrid",
    }
    for name, path in dict.fromkeys((cell.set, cell.path) for cell in all_cells() if not cell.is_baseline):
        cell = Cell(name, path, 100)
        adapter = tmp_path / str(cell) if cell.is_trained and not cell.is_fully_tuned else None
        served = replace(model, tuned_from="base") if cell.is_fully_tuned else model
        written = folder.write_folder(tmp_path / "example", {cell: adapter}, public, served)
        config = load_config(written / "pointsman.yaml", {})
        bootstrap.check_config(config)
        entry = config.paths.paths[cell.path_name]
        assert bootstrap.to_path(path, entry, config).kind == kinds.get(path, "prompt"), cell
        assert entry.model == "other"
        assert len(config.examples[name]) == 100


def test_the_mixed_stream_is_of_all_sets_and_its_policies_are_the_best_paths_on_validation_rows(
    data: Path, tmp_path: Path
) -> None:
    public = {name: sets.load_set(name, data) for name in cells.SETS}
    served = {cell: tmp_path / str(cell) if cell.is_trained else None for cell in mixed.cells()}
    example = folder.write_folder(tmp_path / "mixed", served, public, folder.Model())
    mixed.add_default(example)
    figures = [
        replace(FIGURES, path=f"clinc150_{path}_1000_2", score=Interval(score, 0, 1))
        for path, score in (("lora", 0.5), ("nearest_8", 0.75))
    ]
    report = TaskReport("clinc150", "entry_point", 10, (*figures, replace(FIGURES, path="decline")), (), (), (), 0)
    mixed.serve_best(example, Report(1, "validation", "", "", 16, 0.95, (report,)))
    config = load_config(example / "pointsman.yaml", {})
    bootstrap.check_config(config)
    assert config.tasks.tasks["clinc150"].policy.paths == ("clinc150_nearest_8_1000_2",)
    assert config.tasks.tasks["clinc150"].fallback == ("clinc150_lora_1000_2",)
    assert config.tasks.default_path == "decline"
    assert [row["task"] for row in mixed.stream(public, "test", 2)] == ["clinc150"] * 2 + ["snips"] * 2 + ["xquad"] * 2
    assert {row["text"] for row in mixed.out_of_scope(data)} == {"far 1", "far 2"}
    drawn = [row["id"] for row in mixed.stream(public, "test", mixed.TEST_ROWS)]
    assert 30 < sum(name.startswith("xquad-seen") for name in drawn) < 60  # 150 of the 500 test rows


class FakeEncoder:
    """An encoder whose vector of a text is its number of letters "a" and of letters "b"."""

    def embed(self, texts: Sequence[str]) -> list[list[int]]:
        return [[text.count("a"), text.count("b")] for text in texts]


def test_predicted_learns_which_path_answers_a_request_from_validation_rows_alone(tmp_path: Path) -> None:
    def files(part: str, count: int, swapped: bool = False) -> tuple[Path, Path]:
        texts = [f"{'ab'[n % 2] * 3} {n}" for n in range(count)]
        rows = [{"id": str(n), "text": text} for n, text in enumerate(texts)]
        answers = [
            {"row": str(n), "task": "snips", "path": path, "outcome": "ok", "cost_parts_usd": {"prompt": usd},
             "score": float(("a" in text) == ((path == "one") != swapped)) if path != "decline" else 0.0}
            for n, text in enumerate(texts)
            for path, usd in (("two", 2e-3), ("one", 1e-3), ("decline", 0.0))
        ]  # fmt: skip
        of_answers = write_rows([{"evaluation": 1}, *answers], tmp_path / f"{part}-answers.jsonl")
        return write_rows(rows, tmp_path / f"{part}.jsonl"), of_answers

    encoder: Any = FakeEncoder()
    validation, test = files("validation", 120), files("test", 40)
    (found,) = predicted.measure(validation, test, ["snips"], "decline", encoder)
    assert found.accepted
    assert found.learned == 120
    assert found.shares == {"one": 0.5, "two": 0.5}
    assert (found.score, found.gain, found.fixed, found.fixed_score) == (1.0, 0.5, "one", 0.5)
    assert found.usd_per_1000 == pytest.approx(1.5)
    (few,) = predicted.measure(files("few", 80), test, ["snips"], "decline", encoder)
    assert (few.accepted, few.score) == (False, 1.0)
    (wrong,) = predicted.measure(validation, files("other", 40, swapped=True), ["snips"], "decline", encoder)
    assert (wrong.accepted, wrong.score, wrong.gain) == (True, 0.0, -0.5)
    predicted.write([found, few], tmp_path)
    assert predicted.read(tmp_path) == [found, few]
    assert predicted.read(tmp_path / "none") == []


def test_the_page_shows_the_mixed_stream(tmp_path: Path) -> None:
    folder, none = tmp_path / "results/smollm2-135m", Interval(0, 0, 0)
    folder.mkdir(parents=True)
    for file, scores in ((mixed.CHOSEN, (0.5, 0.25)), (mixed.REPORT, (0.75, 0.125))):
        paths = [
            replace(FIGURES, path=f"snips_{path}_1000_2", score=Interval(score, 0, 1))
            for path, score in zip(("lora", "nearest_8"), scores, strict=True)
        ]
        task = TaskReport("snips", "exact", 10, (*paths, replace(FIGURES, path="decline")), (), (), (), 0)
        auto = Choice("auto", Interval(0.7, 0.6, 0.8), 0.003, none)
        stream = Mixed({"snips": 0.9, "unknown": 0.1}, (auto,), 0.02, 0.01, 0.005, 0.001)
        write_report(Report(1, file, "", "", 16, 0.95, (task,), stream), folder / file)
    shares = {"snips_lora_1000_2": 1.0, "snips_nearest_8_1000_2": 0.0}
    result = predicted.Predicted(
        "snips", 150, -0.01, False, shares, 0.75, 0.003, 0.0, 0.0, "snips_lora_1000_2", 0.75, 0.003
    )
    predicted.write([result], folder)
    at, details = tmp_path / "experiment-public.md", tmp_path / "details.md"
    for each in (at, details):
        each.write_text(f"{page.BEGIN}\n<!-- end of results -->\n", encoding="utf-8")
    page.write(tmp_path / "results", "smollm2-135m", dict.fromkeys(cells.SETS, ()), at, details)
    written = at.read_text("utf-8") + details.read_text("utf-8")
    assert "90% snips, 10% unknown" in written
    assert "| auto | 0.700 (0.60 to 0.80) | 0.0030 |" in written
    assert "2.0% of the requests got a wrong task and 1.0% none. Both together cost 0.5 points" in written
    assert "| snips | lora | 0.500 | 0.750 (0.00 to 1.00) |" in written
    assert "| snips | nearest 8 | 0.250 | 0.125 (0.00 to 1.00) |" in written
    assert "decline" not in written
    assert "| snips | 150 | no | 100% lora | 0.750 | 0.0030 | +0.0 points (at least +0.0) | lora: 0.750" in written


def render(cell: Cell, public: PublicSet, tmp_path: Path, found: training.Passages, **options: Any) -> list[Row]:
    written = folder.write_folder(tmp_path / "example", {cell: None}, {cell.set: public}, folder.Model())
    rows = public.training_rows(cell.rows, cell.seed)[:100]
    return training.render(cell, public, load_config(written / "pointsman.yaml", {}), rows, found, **options)


def test_an_adapter_with_examples_is_trained_on_other_rows_as_examples(data: Path, tmp_path: Path) -> None:
    public = sets.load_set("clinc150", data)
    public = replace(public, pool=[{**row, "text": f"{row['text']} {n}"} for n, row in enumerate(public.validation)])
    for row in render(Cell("clinc150", "lora_few_shot", 40), public, tmp_path, {})[:20]:
        *examples, asked, answer = row["messages"]
        assert [message["role"] for message in examples] == ["user", "assistant"] * cells.FEW_SHOTS
        assert (asked["role"], answer["role"]) == ("user", "assistant")
        assert asked["content"] not in [message["content"] for message in examples]


def test_an_adapter_with_passages_is_trained_with_the_right_one_and_a_share_without(data: Path, tmp_path: Path) -> None:
    public, cell = sets.load_set("xquad", data), Cell("xquad", "raft_lora_rag", 400)
    found = {row["id"]: [Passage(f"{n}", "", f"distractor {n}", 0.5) for n in range(3)] for row in public.pool}
    systems = [row["messages"][0]["content"] for row in render(cell, public, tmp_path, found)]
    assert {system.count("distractor") + ("it 0, it 1" in system) for system in systems} == {cells.PASSAGES}
    assert 70 < sum("it 0, it 1" in system for system in systems) < 90
    as_served = render(cell, public, tmp_path, found, is_trained=False)
    assert {row["messages"][0]["content"].count("distractor") for row in as_served} == {cells.PASSAGES}


def test_few_rows_are_repeated_for_a_third_of_the_steps() -> None:
    assert training.epochs(Cell("snips", "lora", 1000)) == 4
    assert training.epochs(Cell("snips", "lora", 30)) == 45


def test_baselines_answer_from_training_rows() -> None:
    rows = [{"id": colour, "text": f"paint it {colour}", "output": colour, "label": colour} for colour in COLOURS]
    public = PublicSet(
        "clinc150", rows, (), [{"id": "1", "text": "it was RED once", "output": "red"}], COLOURS, "label"
    )
    (found,) = baselines.answer(Cell("clinc150", "tfidf", 6), public, public.test)
    assert (found.text, found.score) == ("red", 1)
    (found,) = baselines.answer(Cell("clinc150", "majority", 7), replace(public, pool=[*rows, rows[2]]), public.test)
    assert (found.text, found.score) == ("blue", 0)


def stored(results: ResultFolder, cell: Cell, test: Sequence[Row], right: int) -> None:
    """Stores answers to the test rows, of which the first `right` are correct."""
    answers = [
        Answer(row["id"], row["output"] if n < right else "wrong", float(n < right), 1e-5, 100, 20, 5, 0.5)
        for n, row in enumerate(test)
    ]
    trained = {"rows": cell.rows, "steps": 9, "seconds": 120.0} if cell.is_trained else None
    results.write(cell, test, answers, trained)


def test_stored_answers_are_read_back_and_other_test_rows_need_a_new_run(data: Path, tmp_path: Path) -> None:
    results, cell = ResultFolder(tmp_path / "results"), Cell("xquad", "rag")
    test = sets.load_set("xquad", data).test[:20]
    assert results.summary(cell) is None
    stored(results, cell, test, right=5)
    summary = results.summary(cell)
    assert summary
    assert (summary.score.mean, summary.secondary, summary.tested) == (0.25, 0.25, 20)
    assert summary.usd_per_1000 == pytest.approx(0.01)
    assert [answer.score for answer in results.answers(cell)] == [1.0] * 5 + [0.0] * 15
    assert results.is_done(cell, test)
    assert not results.is_done(cell, test[:19])


def test_the_last_answer_to_a_row_counts(tmp_path: Path) -> None:
    part = {"prompt_tokens": 9, "cached_tokens": 1, "completion_tokens": 2, "total": 0.25}
    paid = {"prompt": 0.25, "completion": 0.5}
    lines: list[Row] = [
        {"evaluation": 1},
        {"row": "1", "text": "", "score": 0.0, "cost_parts_usd": {}, **part},
        {"row": "1", "text": "yes", "score": 1.0, "cost_parts_usd": paid, **part},
    ]
    (answer,) = read_answers(write_rows(lines, tmp_path / "answers.jsonl"))
    assert answer == Answer("1", "yes", 1.0, 0.75, 9, 1, 2, 0.25)


def test_failures_of_the_machine_are_no_result(tmp_path: Path) -> None:
    def file(*outcomes: str) -> Path:
        lines = [{"row": str(n // 2), "path": "rag", "outcome": outcome} for n, outcome in enumerate(outcomes)]
        return write_rows([{"evaluation": 1}, *lines], tmp_path / "answers.jsonl")

    check_outcomes(file("engine_error", "ok", "ok", "context_length_exceeded"))
    with pytest.raises(CannotMeasure, match=r"1 of 2 requests failed \(engine_error 1\); the same command"):
        check_outcomes(file("ok", "engine_error", "ok", "ok"))


def test_cells_that_are_done_are_not_repeated_and_a_run_stops_after_its_minutes(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "WORK", tmp_path / "work")
    setting = Setting(data, folder.Model(), limit=6)
    chosen = program.select(all_cells(), ["xquad:tfidf"])
    public = {"xquad": setting.load("xquad")}
    program.run(chosen, public, setting, minutes=0)
    assert "stopped after 0 minutes; the same command continues with xquad-tfidf-1000-1" in capsys.readouterr().out
    program.run(chosen, public, setting, minutes=None)
    assert capsys.readouterr().out.count("xquad-tfidf") == 4
    program.run(chosen, public, setting, minutes=None)
    assert capsys.readouterr().out == ""
    program.print_cells(chosen, public, setting)
    assert capsys.readouterr().out.count("done") == 4


def test_cells_share_a_start_of_the_services_unless_examples_differ_or_an_adapter_is_missing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "WORK", tmp_path)
    setting, first = Setting(data, folder.Model()), Cell("xquad", "zero_shot")

    def together() -> set[str]:
        return {str(cell) for cell in all_cells() if measure.can_run_together(cell, first, setting)}

    paths = {"zero_shot", "guided", "rag", "few_shot_rag", "nearest_8", "fixed_8", "chain_of_thought"}
    assert together() == {f"xquad-{path}-1000-1" for path in paths}
    _write(setting.work / "adapters/xquad-lora-1000-1/training.json", {})
    assert together() == {f"xquad-{path}-1000-1" for path in paths | {"lora", "lora_rag"}}
    # An adapter that another number of rows or another seed has trained; its prompts show no examples.
    _write(setting.work / "adapters/xquad-lora-30-1/training.json", {})
    _write(setting.work / "adapters/xquad-raft_lora_rag-1000-2/training.json", {})
    assert {"xquad-lora-30-1", "xquad-raft_lora_rag-1000-2"} <= together()
    assert "xquad-nearest_8-30-1" not in together()
    # A fully tuned model has an engine of its own.
    tuned = Cell("xquad", "full_fine_tune")
    _write(setting.work / f"adapters/{tuned}/training.json", {})
    assert str(tuned) not in together()
    assert not measure.can_run_together(Cell("xquad", "zero_shot"), tuned, setting)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--only", "snips:loar"], "--only snips:loar selects no cell; known: clinc150, clinc150:chain_of_thought"),
        (["--base-model", "other"], "--base-model other needs --prices PROMPT,CACHED,COMPLETION"),
        (["--data", "/nowhere", "--list"], "/nowhere/routing/clinc150/data_full.json"),
    ],
)
def test_bad_options_are_refused(arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(arguments) == 1
    assert error in capsys.readouterr().err


def test_the_page_reports_what_has_run_and_names_what_has_not(data: Path, tmp_path: Path) -> None:
    tests = {name: sets.load_set(name, data).test[:40] for name in cells.SETS}
    results = ResultFolder(tmp_path / "results/smollm2-135m")
    for cell, right in (
        (Cell("xquad", "lora"), 2),
        (Cell("xquad", "rag"), 10),
        (Cell("xquad", "raft_lora_rag"), 30),
        (Cell("xquad", "raft_lora_rag", seed=2), 26),
        (Cell("snips", "lora", 30), 10),
        (Cell("snips", "nearest_8", 30), 30),
    ):
        stored(results, cell, tests[cell.set], right)
    at, details = tmp_path / "experiment-public.md", tmp_path / "details.md"
    for each in (at, details):
        each.write_text(f"Before.\n{page.BEGIN}\nSTALE\n<!-- end of results -->\nAfter.\n", encoding="utf-8")
    page.write(tmp_path / "results", "smollm2-135m", tests, at, details)
    written = at.read_text("utf-8") + details.read_text("utf-8")
    assert written.startswith("Before.\n")
    assert written.endswith("\nAfter.\n")
    assert "STALE" not in written
    assert f"6 of {len(all_cells())} planned runs" in written
    assert "| raft lora rag | hybrid | **0.700** |" in written
    assert "| 0.750, 0.650 |" in written
    assert "raft lora rag minus rag: +45.0 points" in written
    assert "| chain of thought | prompt | *not run* |" in written
    assert "| full fine tune | tuned | *not run* |" in written
    assert "| snips | 30 | 0.250 (0.14 to 0.40) | 0.750 (0.60 to 0.86) | -50.0 points" in written
    assert "| xquad | 1,000 | 0.050" in written
    assert "| snips | all, up to 1,000 | *not run* | *not run* |" in written
    assert "### Choices on the mixed stream\n\n*not run*" in written
    assert "* rag is wrong on 20 of 40 rows that raft lora rag answers correctly" in written
    for name in cells.SETS:
        assert at.with_name(f"experiment-public-{name}.svg").read_text("utf-8").startswith("<svg")
    page.write(tmp_path / "results", "smollm2-135m", tests, at, details)
    assert at.read_text("utf-8") + details.read_text("utf-8") == written


def test_the_committed_page_is_made_of_the_committed_results() -> None:
    evidence = Evidence(ResultFolder(measure.RESULTS / folder.BASE_MODEL))
    written = page.PAGE.read_text("utf-8")
    done = [summary for cell in all_cells() if (summary := evidence.results.summary(cell))]
    assert f"{len(done)} of {len(all_cells())} planned runs" in written
    assert sum(file.stat().st_size for file in measure.RESULTS.rglob("*") if file.is_file()) < 5_000_000
