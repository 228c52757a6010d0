"""`pointsman retrain` step by step with scripted services: which steps are done, repeated or rejected, and why."""

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from pointsman_cli.errors import CommandError, UsageError
from pointsman_cli.retrain.command import STEPS
from pointsman_cli.retrain.data_step import DataStep, ModelAnswer, read_prompts
from pointsman_cli.retrain.evaluate_step import EvaluateStep, apply_gates, heldout_rows, make_scorer
from pointsman_cli.retrain.rollout_steps import AliasState, CanaryStep, PromoteStep
from pointsman_cli.retrain.run_state import (
    CanaryTerms,
    GateTerms,
    RetrainPlan,
    RunFile,
    RunState,
    Step,
    latest_run,
    run_steps,
    start_run,
)
from pointsman_cli.retrain.train_step import TrainingResult, TrainingSpec, TrainStep, explain_end
from pointsman_cli.retrain.training_method import RetrainMethod

OLD, NEW = "triage@111111111111", "triage@222222222222"
LORA = RetrainMethod("lora")
PLAN = RetrainPlan(
    task="triage",
    alias="triage@prod",
    student="triage_adapter",
    teacher="triage_few_shot",
    incumbent="",
    sampling={"max_tokens": 20, "temperature": 0},
    metric={"exact": True},
    heldout=None,
    collections=(),
    training={"rank": 8, "epochs": None, "max_minutes": 5.0, "seed": 7},
    gates=GateTerms(min_rows=10, min_gain=0.0, confidence=0.95, max_regressions=0.1),
    canary=CanaryTerms(weight=0.5, min_requests=4, max_minutes=60.0),
)


def _with_system_message(file: Path | None) -> Path | None:
    """Inserts a system message before the question of each row of the file, if there is a file."""
    if file is None or not file.is_file():
        return file
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rendered = [{"messages": [{"role": "system", "content": "S"}, *row["messages"], {}]} for row in rows]
    file = file.with_name("rendered.jsonl")
    file.write_text("".join(json.dumps(row) + "\n" for row in rendered))
    return file


@dataclass
class ScriptedServices:
    """A scripted gateway and lora-server, and scripted data sets."""

    rows: int = 50
    right: Mapping[str, int] = field(default_factory=lambda: {"path:triage_adapter": 10, NEW: 38})
    """By model, how many held-out rows it answers correctly, counted from the first."""
    alias: AliasState | None = field(default_factory=lambda: AliasState(OLD, "", 0))
    trained: TrainingResult = field(default_factory=lambda: TrainingResult("succeeded", NEW))
    taken_back: str = ""
    is_promoted_by_hand: bool = False
    calls: list[Any] = field(default_factory=list)
    first_questions: dict[str, Any] = field(default_factory=dict)
    """By model, the first question that it was sent."""
    breaks: str = ""
    """The call at which the run is interrupted as if it were killed."""

    def call(self, name: str, *what: Any) -> None:
        self.calls.append((name, *what))
        if name == self.breaks:
            raise KeyboardInterrupt

    # the data
    async def build(self, teacher_answers: Path | None) -> dict[str, Any]:
        self.call("build", teacher_answers)
        counts = {"train": self.rows, "heldout": 5, "pairs": self.rows // 2, "heldout_pairs": 1}
        manifest = {"task": "triage", "name": "abc", "counts": counts, "sources": {"train": {}}, "digests": {}}
        return {"folder": "/data/triage/abc", "manifest": manifest}

    async def render(self, data: Path, held_out: Path | None) -> tuple[Path, Path | None, str]:
        return data.with_name("rendered"), _with_system_message(held_out), "rendered"

    # the gateway
    async def answers(
        self,
        model: str,
        sampling: Mapping[str, Any],
        questions: Sequence[Any],
        file: Path,
        progress: Callable[[int, int], None],
    ) -> list[ModelAnswer]:
        self.call("ask", model)
        self.first_questions[model] = questions[0]
        right = self.right.get(model, 0)
        return [ModelAnswer("", f"answer {n}" if n < right else "nonsense", "stop") for n in range(len(questions))]

    # the lora-server
    async def start(self, spec: TrainingSpec) -> str:
        self.call("start", spec)
        return "job-1"

    async def follow(self, job: str) -> TrainingResult:
        self.call("follow", job)
        return self.trained

    async def stable(self, alias: str) -> str:
        return self.alias.stable if self.alias else ""

    async def alias_state(self, alias: str) -> AliasState | None:
        if self.alias and self.alias.canary:
            self.alias = replace(self.alias, canary="" if self.taken_back else NEW, requests=self.alias.requests + 2)
            if self.is_promoted_by_hand:
                self.alias = AliasState(NEW, "", 0)
        return self.alias

    async def set_canary(self, alias: str, version: str, terms: CanaryTerms, expected: str) -> None:
        self.call("canary", version, expected)
        self.alias = AliasState(OLD, version, 0)

    async def end_canary(self, alias: str) -> None:
        self.call("end_canary")

    async def why_taken_back(self, alias: str) -> str:
        return self.taken_back

    async def move(self, alias: str, version: str, expected: str) -> None:
        self.call("move", version, expected)

    async def retire(self, version: str, reason: str) -> None:
        self.call("retire", version, reason)

    async def dates(self) -> Mapping[str, str]:
        return {"data_unix": "17"}

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]


@pytest.fixture
def datasets(tmp_path: Path) -> Path:
    return tmp_path / "distill" / "triage"


def shelf_of(ledger: RunFile) -> Path:
    folder = ledger.folder.parent.parent
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_heldout(file: Path) -> Path:
    rows = [{"text": f"question {n}", "output": f"answer {n}"} for n in range(40)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def steps(
    services: ScriptedServices, ledger: RunFile, plan: RetrainPlan, method: RetrainMethod, texts: Path | None
) -> Sequence[Step]:
    def quiet(*_: object) -> None: ...

    heldout = write_heldout(shelf_of(ledger) / "heldout.jsonl") if plan.heldout is None else plan.heldout
    plan = replace(plan, heldout=heldout)
    scorer = make_scorer("triage", plan.metric, httpx.AsyncClient())
    return (
        DataStep(plan, method, services, services.build, services.render, ledger.folder, texts, quiet),
        TrainStep(plan, method, services, services, services.dates),
        EvaluateStep(plan, services, services, scorer, services.render, ledger.folder, quiet),
        CanaryStep(plan, services, quiet, look_seconds=0),
        PromoteStep(plan, services),
    )


def distill(
    services: ScriptedServices,
    datasets: Path,
    plan: RetrainPlan = PLAN,
    method: RetrainMethod = LORA,
    until: str = "",
    texts: Path | None = None,
) -> RunState:
    """Starts the retraining, or resumes an interrupted run."""
    there = latest_run(datasets)
    ledger = there if there and not there.state.outcome else start_run(datasets, "triage", method.name, STEPS)
    return asyncio.run(
        run_steps(steps(services, ledger, plan, method, texts), ledger, services.retire, lambda line: None, until)
    )


def test_a_better_version_becomes_a_canary_and_is_then_promoted(datasets: Path) -> None:
    services = ScriptedServices()
    state = distill(services, datasets)
    assert (state.outcome, state.version) == ("promoted", NEW)
    assert services.calls[-2:] == [("canary", NEW, OLD), ("move", NEW, OLD)]
    assert state.facts("evaluate")["examination"]["compared_with"] == "triage_adapter"
    assert latest_run(datasets).state == state  # type: ignore[union-attr]  # it is there


def test_the_trainer_gets_data_set_recipe_and_manifest_facts(datasets: Path) -> None:
    services = ScriptedServices()
    distill(services, datasets, until="train")
    ((_, spec),) = [call for call in services.calls if call[0] == "start"]
    assert (spec.data, spec.heldout) == (
        Path("/data/triage/abc/train.jsonl"),
        Path("/data/triage/abc/heldout.jsonl"),
    )
    assert spec.recipe == {"rank": 8, "max_minutes": 5.0, "seed": 7, "baseline_shots": 0}
    assert spec.facts == {"data_set": "triage/abc", "data_unix": "17"}


def test_a_student_with_strategies_is_trained_and_evaluated_on_the_prompts_that_it_will_get(datasets: Path) -> None:
    services = ScriptedServices()
    assert distill(services, datasets, replace(PLAN, is_rendered=True)).outcome == "promoted"
    ((_, spec),) = [call for call in services.calls if call[0] == "start"]
    assert (spec.data, spec.heldout) == (Path("/data/triage/abc/rendered"), Path("/data/triage/abc/heldout.jsonl"))
    question = {"role": "user", "content": "question 0"}
    assert list(services.first_questions["path:triage_adapter"]) == [question]
    assert list(services.first_questions[NEW]) == [{"role": "system", "content": "S"}, question]


def test_training_on_pairs_starts_from_the_serving_version(datasets: Path) -> None:
    services = ScriptedServices()
    distill(services, datasets, method=RetrainMethod("kto", learns_from_pairs=True), until="train")
    ((_, spec),) = [call for call in services.calls if call[0] == "start"]
    assert (spec.data.name, spec.heldout.name, spec.parent) == ("pairs.jsonl", "heldout_pairs.jsonl", OLD)
    assert (spec.method, spec.recipe) == ("kto", {"max_minutes": 5.0, "seed": 7, "baseline_shots": 0})


def test_too_few_rows_end_the_run_before_training(datasets: Path) -> None:
    services = ScriptedServices(rows=9)
    state = distill(services, datasets)
    assert (state.outcome, state.reason) == ("refused", "9 rows to learn from: under 10")
    assert services.names() == ["build"]


def test_a_worse_version_is_retired_with_the_reason(datasets: Path) -> None:
    services = ScriptedServices(right={"path:triage_adapter": 38, NEW: 10})
    state = distill(services, datasets)
    assert state.outcome == "refused"
    interval = r"95% interval -\d.\d{3} to -\d.\d{3}: it must begin at \+0.\d{3} or above; "
    assert re.match(f"gain -0.700, {interval}", state.reason)
    assert "70% of the rows are answered worse than now: over 10%" in state.reason
    assert services.calls[-1] == ("retire", NEW, state.reason)
    assert "canary" not in services.names()
    assert state.facts("evaluate")["examination"]["worse"][0]["expected"] == "answer 10"


def test_the_refusal_of_a_version_names_what_cut_its_training_short(datasets: Path) -> None:
    cause = explain_end({"steps": 14, "of_steps": 30, "ended_by": "time"})
    assert cause == "the training was stopped after 14 of 30 steps by max_minutes: raise flywheel.training.max_minutes"
    services = ScriptedServices(
        right={"path:triage_adapter": 38, NEW: 10}, trained=TrainingResult("succeeded", NEW, cut_short=cause)
    )
    state = distill(services, datasets)
    assert state.reason.startswith("gain -0.700")
    assert state.reason.endswith(f"; {cause}")
    assert services.calls[-1] == ("retire", NEW, state.reason)


@pytest.mark.parametrize(
    ("done", "message"),
    [
        ({"steps": 20, "of_steps": 30, "ended_by": "patience"}, "20 of 30 steps, since its held-out loss no longer"),
        ({"steps": 14, "ended_by": "time"}, "stopped after 14 steps by max_minutes"),
        ({"steps": 30, "of_steps": 30, "ended_by": "whole"}, ""),
        ({}, ""),
    ],
)
def test_only_a_training_that_ended_early_has_a_cause(done: dict[str, object], message: str) -> None:
    assert message in explain_end(done)
    assert bool(explain_end(done)) == bool(message)


def test_a_version_equal_to_the_serving_one_is_refused(datasets: Path) -> None:
    services = ScriptedServices(trained=TrainingResult("succeeded", OLD))
    state = distill(services, datasets)
    assert state.reason == f"{OLD} is what serves already"
    assert "retire" not in services.names()


def test_a_rolled_back_canary_fails_the_run_with_its_reason(datasets: Path) -> None:
    services = ScriptedServices(taken_back="error rate 0.30 of 40 against 0.00 of 58")
    state = distill(services, datasets)
    assert state.reason == "the canary was taken back: error rate 0.30 of 40 against 0.00 of 58"
    assert services.calls[-1] == ("retire", NEW, state.reason)


def test_a_canary_that_somebody_promotes_ends_the_run_with_success(datasets: Path) -> None:
    services = ScriptedServices(is_promoted_by_hand=True)
    state = distill(services, datasets)
    assert not state.reason
    assert "retire" not in services.names()


def test_a_canary_without_traffic_is_abandoned(datasets: Path) -> None:
    services = ScriptedServices()
    state = distill(services, datasets, replace(PLAN, canary=CanaryTerms(0.5, 1000, 0.0)))
    assert state.reason == "2 of 1000 requests in 0 minutes"
    assert services.names()[-2:] == ["end_canary", "retire"]


def test_the_first_version_is_compared_with_the_teacher_and_needs_no_canary(datasets: Path) -> None:
    services = ScriptedServices(alias=None, right={"path:triage_few_shot": 12, NEW: 40})
    state = distill(services, datasets)
    assert (state.outcome, state.steps["canary"].status) == ("promoted", "skipped")
    assert ("ask", "path:triage_few_shot") in services.calls
    assert services.calls[-1] == ("move", NEW, "")


def test_a_run_stops_after_the_named_step_and_resumes_with_the_next(datasets: Path) -> None:
    services = ScriptedServices()
    for step, done in (("data", ["build"]), ("train", ["start", "follow"]), ("evaluate", ["ask", "ask"])):
        services.calls.clear()
        assert distill(services, datasets, until=step).outcome == ""
        assert services.names() == done
    services.calls.clear()
    assert distill(services, datasets).outcome == "promoted"
    assert services.names() == ["canary", "move"]


@pytest.mark.parametrize("at", ["build", "start", "follow", "ask", "canary", "move"])
def test_a_killed_run_resumes(datasets: Path, at: str) -> None:
    services = ScriptedServices(breaks=at)
    with pytest.raises(KeyboardInterrupt):
        distill(services, datasets)
    before, services.breaks = services.names(), ""
    assert distill(services, datasets).outcome == "promoted"
    for name in ("build", "start", "canary", "move"):
        assert services.names().count(name) == (2 if name == at else 1)
    assert before


def test_a_kill_before_the_retirement_retires_afterwards(datasets: Path) -> None:
    services = ScriptedServices(right={"path:triage_adapter": 38, NEW: 10}, breaks="retire")
    with pytest.raises(KeyboardInterrupt):
        distill(services, datasets)
    services.breaks = ""
    services.calls.clear()
    assert distill(services, datasets).outcome == "refused"
    assert services.names() == ["retire"]


def test_a_failed_training_is_restarted(datasets: Path) -> None:
    services = ScriptedServices(trained=TrainingResult("failed", "", "no memory"))
    with pytest.raises(CommandError, match="job-1 failed: no memory"):
        distill(services, datasets)
    services.trained = TrainingResult("succeeded", NEW)
    assert distill(services, datasets).outcome == "promoted"
    assert services.names().count("start") == 2


def test_each_text_is_sent_to_the_teacher_once(datasets: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.write_text('I lost my hat\n{"text": "Refund please"}\n\nI lost my hat\n')
    services = ScriptedServices(right={"path:triage_few_shot": 1})
    distill(services, datasets, until="data", texts=texts)
    (asked, built) = services.calls
    assert asked == ("ask", "path:triage_few_shot")
    assert [json.loads(line)["text"] for line in built[1].read_text().splitlines()] == [
        "I lost my hat",
        "Refund please",
    ]


def test_a_missing_file_of_texts_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no-such"):
        read_prompts(tmp_path / "no-such")


def test_texts_may_contain_any_character_and_their_file_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "texts"
    file.write_text('{"text": "one\u2028two"}\nthree\x85four\n', "utf-8-sig")
    assert read_prompts(file) == ["one\u2028two", "three\x85four"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": ["a"]}', r'is not \{"text": "..."\}'),
        ('{"txt": "a"}', r'is not \{"text": "..."\}'),
        ('{"text": " "}', r'is not \{"text": "..."\}'),
        ('{"text": "cut off', "is not JSON"),
        ("{name} asks", "is not JSON"),
        (r'{"text": "half \ud83d of a pair"}', "holds half of a surrogate pair"),
    ],
)
def test_an_invalid_json_line_is_rejected(tmp_path: Path, line: str, problem: str) -> None:
    file = tmp_path / "texts"
    file.write_text(f"I lost my hat\n{line}\n")
    with pytest.raises(UsageError, match=rf"texts:2 begins with {{ and {problem}"):
        read_prompts(file)


def test_a_label_invalid_for_the_metric_is_rejected_before_any_request(datasets: Path, tmp_path: Path) -> None:
    file = tmp_path / "heldout.jsonl"
    file.write_text('{"text": "question", "output": "no object"}\n')
    services = ScriptedServices()
    with pytest.raises(UsageError, match=r"row heldout\.jsonl:1 .* json_fields compares with an object"):
        distill(services, datasets, replace(PLAN, heldout=file, metric={"json_fields": True}))
    assert "ask" not in services.names()


def test_an_evaluation_file_without_a_row_of_the_task_is_named_before_any_request(
    datasets: Path, tmp_path: Path
) -> None:
    file = tmp_path / "heldout.jsonl"
    file.write_text('{"text": "question", "output": "answer", "task": "policy"}\n')
    services = ScriptedServices()
    problem = r"heldout\.jsonl \(flywheel\.eval_data\) has no row of the task 'triage' .* name another file"
    with pytest.raises(UsageError, match=problem):
        distill(services, datasets, replace(PLAN, heldout=file))
    assert "ask" not in services.names()
    file.write_text('{"text": "question", "output": "answer"}\n{"text": "b", "output": "c", "task": "policy"}\n')
    state = start_run(datasets, "triage", "lora", STEPS).state
    assert [row.text for row in heldout_rows(replace(PLAN, heldout=file), state)] == ["question"]


def test_without_an_evaluation_file_held_out_rows_are_used(datasets: Path, tmp_path: Path) -> None:
    rows = [
        {"text": "one\u2028", "output": "1"},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                      {"role": "user", "content": "two"}, {"role": "assistant", "content": "2"}]},
    ]  # fmt: skip
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "heldout.jsonl").write_text(lines, "utf-8")
    state = start_run(datasets, "triage", "lora", STEPS).state.with_step("data", facts={"folder": str(tmp_path)})
    found = heldout_rows(PLAN, state)
    assert [(row.text, len(row.messages), row.output) for row in found] == [("one\u2028", 1, "1"), ("two", 3, "2")]


def test_an_unreadable_state_file_is_named(datasets: Path) -> None:
    distill(ScriptedServices(), datasets, until="data")
    (file,) = datasets.glob("*/state.json")
    file.write_text("{")
    with pytest.raises(CommandError, match=r"state\.json cannot be read .* --restart"):
        latest_run(datasets)


def test_restart_does_not_read_an_unreadable_state_file(cli: Callable[..., Any], tmp_path: Path) -> None:
    home = tmp_path / "home"
    start_run(home / "retrain" / "triage", "triage", "lora", STEPS)
    (file,) = home.glob("retrain/triage/*/state.json")
    file.write_text("{")
    damaged = cli("retrain", "triage", "--data-dir", home)
    assert (damaged.code, "--restart begins a new run" in damaged.err) == (1, True), damaged.err
    restarted = cli("retrain", "triage", "--restart", "--data-dir", home)
    assert restarted.err == "error: nothing runs here; name the configuration folder with --config\n"


# -- the gates


def test_an_insignificant_gain_does_not_pass() -> None:
    gates = GateTerms(1, 0.0, 0.95, 1.0)
    few, many = [0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0, 1.0, 0.0] * 10
    assert apply_gates(gates, few, [1.0, 0.0, 1.0, 1.0]).objections
    assert not apply_gates(gates, [0.0] * 60, many).objections


def test_few_held_out_rows_cannot_show_a_significant_gain() -> None:
    gates = GateTerms(1, 0.2, 0.95, 0.1)
    for better in ([1.0], [1.0] * 3, [1.0, 0.8, 1.0], [0.9, 1.0, 1.0, 1.0, 0.9]):
        (objection,) = apply_gates(gates, [0.0] * len(better), better).objections
        assert objection.startswith("gain ")
    assert not apply_gates(gates, [0.0] * 50, [1.0] * 50).objections


def test_a_partially_better_row_counts() -> None:
    found = apply_gates(GateTerms(1, 0.0, 0.95, 0.1), [0.5] + [1.0] * 99, [1.0] * 100)
    assert (found.gain.mean, found.p_value) == (pytest.approx(0.005), 1)


def test_a_negative_threshold_accepts_a_slightly_worse_version() -> None:
    old, new = [1.0] * 100, [1.0] * 97 + [0.0] * 3
    assert apply_gates(GateTerms(1, 0.0, 0.95, 0.1), old, new).objections
    assert not apply_gates(GateTerms(1, -0.1, 0.95, 0.1), old, new).objections


def test_a_better_mean_does_not_compensate_for_too_many_worse_rows() -> None:
    old, new = [0.0] * 80 + [1.0] * 20, [1.0] * 80 + [0.0] * 20
    (objection,) = apply_gates(GateTerms(1, 0.0, 0.95, 0.1), old, new).objections
    assert objection == "20% of the rows are answered worse than now: over 10%"
