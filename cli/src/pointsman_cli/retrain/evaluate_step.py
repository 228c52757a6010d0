"""Step 3 of a retraining: compares the new adapter version with the incumbent on held-out rows, and applies the gates.

The incumbent is the path that the version must improve on. `RetrainPlan.incumbent` names it; by default it is the path
of the adapter's current version, or if there is none yet, the teacher path.

Gates are requirements: the lower confidence bound of the gain must reach the least gain of `GateTerms`, and the share
of rows that are answered worse may not exceed a maximum.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import httpx
from pointsman_scoring import MetricError, metric_from
from pointsman_scoring.intervals import Interval, compare, mean_interval

from pointsman_cli.errors import CommandError, UsageError
from pointsman_cli.eval.dataset import Row, numbered, read_dataset, text_of
from pointsman_cli.eval.plan import JUDGE_METRIC, JudgeScorer, MetricScorer, Scorer
from pointsman_cli.retrain.data_step import AnswerSource, Messages, ModelAnswer, RowRenderer
from pointsman_cli.retrain.run_state import Facts, GateTerms, RetrainPlan, RunState, StepResult
from pointsman_cli.retrain.train_step import AliasLookup

MAX_WORSE_ROWS = 5
"""The maximum number of rows that are saved in the run's state as examples of worse answers."""


@dataclass(frozen=True, slots=True)
class GateResult:
    """The comparison of a new adapter version (candidate) with the path that it is to improve on (incumbent)."""

    rows: int
    """The number of rows that were compared."""
    incumbent: Interval
    """The incumbent's mean score, from 0 to 1, with its confidence interval."""
    candidate: Interval
    """The candidate's mean score, from 0 to 1, with its confidence interval."""
    gain: Interval
    """The candidate's mean score minus the incumbent's, with its confidence interval."""
    p_value: float
    regressions: int
    """The number of rows that the candidate answers worse than the incumbent."""
    objections: tuple[str, ...]
    """A text for each failed gate (`flywheel.gates` of tasks.yaml); empty if the candidate passes."""

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "objections": list(self.objections)}

    def __str__(self) -> str:
        return (
            f"{self.candidate.mean:.3f} against {self.incumbent.mean:.3f} on {self.rows} rows: "
            f"gain {self.gain.mean:+.3f} [{self.gain.low:+.3f}, {self.gain.high:+.3f}], "
            f"p {self.p_value:.2g}, {self.regressions} answered worse"
        )


def apply_gates(gates: GateTerms, incumbent: Sequence[float], candidate: Sequence[float]) -> GateResult:
    """Compares the scores (0 to 1) of incumbent and candidate, and checks the requirements `gates`.

    The scores must be of the same rows in the same order. Failed requirements are in the result's `objections`. Raises
    ValueError if there are no rows, or the lengths differ.
    """
    found = compare(candidate, incumbent, gates.confidence)
    regressions = sum(new < old for new, old in zip(candidate, incumbent, strict=True))
    return GateResult(
        rows=len(candidate),
        incumbent=mean_interval(incumbent, gates.confidence),
        candidate=mean_interval(candidate, gates.confidence),
        gain=found.difference,
        p_value=found.p_value,
        regressions=regressions,
        objections=tuple(_failed_gates(gates, found.difference, regressions / len(candidate))),
    )


def _failed_gates(gates: GateTerms, gain: Interval, worse: float) -> Iterator[str]:
    if gain.low < gates.min_gain:
        yield (
            f"gain {gain.mean:+.3f}, {gates.confidence:.0%} interval {gain.low:+.3f} to {gain.high:+.3f}: "
            f"it must begin at {gates.min_gain:+.3f} or above"
        )
    if worse > gates.max_regressions:
        yield f"{worse:.0%} of the rows are answered worse than now: over {gates.max_regressions:.0%}"


def make_scorer(task: str, metric: Mapping[str, Any], client: httpx.AsyncClient) -> Scorer:
    """Returns the scorer of answers to `task`, given the metric that tasks.yaml has for the task.

    The scorer of the metric `judge` calls a model through `client`, which must be open to the gateway. Raises
    UsageError if the metric is unknown or its options are invalid.
    """
    if JUDGE_METRIC in metric:
        return JudgeScorer(client, metric[JUDGE_METRIC]["model"], metric[JUDGE_METRIC].get("prompt", ""))
    try:
        return MetricScorer(metric_from(metric))
    except MetricError as error:
        raise UsageError(f"the metric of task '{task}': {error}") from error


def check_rows(scorer: Scorer, rows: Sequence[Row]) -> None:
    """Raises UsageError if the metric of `scorer` cannot use the expected answer of a row.

    A metric that asks a judging model accepts all rows.
    """
    if isinstance(scorer, MetricScorer):
        for row in rows:
            scorer.check(row)


async def score_answers(scorer: Scorer, rows: Sequence[Row], answers: Sequence[ModelAnswer]) -> list[float | None]:
    """Scores the answers, which are in the order of `rows`; returns scores from 0 to 1 in the same order.

    The score is 0 if the request failed, and None if the judge gave no score. Raises CommandError if the metric fails,
    or the judge's gateway cannot be reached.
    """
    return [
        0.0 if answer.error else (await scorer.judge(row, answer.text)).score
        for row, answer in zip(rows, answers, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """A held-out row, answered by the incumbent, the path to improve on (`now`), and the new adapter version (`new`).

    `old_score` and `new_score` are the scores of the two answers, 0 to 1.
    """

    row: Row
    now: ModelAnswer
    new: ModelAnswer
    old_score: float
    new_score: float

    def as_json(self) -> dict[str, Any]:
        return {
            "asked": self.row.text,
            "expected": self.row.output if self.row.output is not None else self.row.facts,
            "now": self.now.text,
            "new": self.new.text,
        }


@dataclass(frozen=True, slots=True)
class EvaluateStep:
    """Step 3 of a retraining: compares the new adapter version with the path to improve on; implements `Step`.

    The version and the path both answer the held-out rows. The step rejects the version if it does not meet a
    requirement (`flywheel.gates` of tasks.yaml).
    """

    plan: RetrainPlan
    gateway: AnswerSource
    registry: AliasLookup
    scorer: Scorer
    render: RowRenderer
    folder: Path
    """The folder of this retraining, in which both models' answers are stored."""
    progress: Callable[[str, int, int], None]
    """A function that shows progress; it gets a name for what is counted, the number done, and the total."""
    name: str = "evaluate"

    async def take(self, state: RunState, note: Callable[[Facts], None]) -> StepResult:
        rows = heldout_rows(self.plan, state)
        check_rows(self.scorer, rows)
        incumbent = await self._incumbent()
        marked = await self._marked(rows, incumbent, state.version)
        found = apply_gates(self.plan.gates, [one.old_score for one in marked], [one.new_score for one in marked])
        worse = [one.as_json() for one in marked if one.new_score < one.old_score]
        facts = {
            "compared_with": incumbent,
            "decided_by": str(self.plan.heldout or "rows held out of the data set"),
            **found.as_json(),
            "worse": worse[:MAX_WORSE_ROWS],
        }
        causes = (*found.objections, str(state.facts("train").get("cut_short", ""))) if found.objections else ()
        return StepResult(f"{found} ({incumbent})", {"examination": facts}, "; ".join(filter(None, causes)))

    async def _incumbent(self) -> str:
        if self.plan.incumbent:
            return self.plan.incumbent
        return self.plan.student if await self.registry.stable(self.plan.alias) else self.plan.teacher

    async def _marked(self, rows: Sequence[Row], incumbent: str, version: str) -> list[ScoredRow]:
        """Requests and scores the answers of the path `incumbent` and of the adapter version to the held-out rows.

        Leaves out rows without a score. Raises CommandError if no row is left, and as `Gateway.answers` does.
        """
        theirs = await self._ask(f"path:{incumbent}", {}, [row.messages for row in rows], f"asking {incumbent}")
        questions = await self._prompts(rows)
        ours = await self._ask(version, self.plan.sampling, questions, f"asking {version}")
        old, new = await score_answers(self.scorer, rows, theirs), await score_answers(self.scorer, rows, ours)
        marked = [
            ScoredRow(row, now, later, before, after)
            for row, now, later, before, after in zip(rows, theirs, ours, old, new, strict=True)
            if before is not None and after is not None
        ]
        if not marked:
            raise CommandError("the judge gave no valid score for any answer; check the model and prompt of the metric")
        return marked

    async def _prompts(self, rows: Sequence[Row]) -> Sequence[Messages]:
        """Returns the messages to send for each row: the row's own, or rendered ones if the plan `is_rendered`.

        Rendered messages are those that the path `student` would send for the row. Raises CommandError as `render`
        does.
        """
        if not self.plan.is_rendered:
            return [row.messages for row in rows]
        file = self.folder / "heldout_rows.jsonl"
        asked = [{"messages": list(row.messages), "output": row.output or ""} for row in rows]
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in asked), "utf-8")
        _, rendered, _ = await self.render(file, file)
        assert rendered is not None
        return [json.loads(line)["messages"][:-1] for _, line in numbered(text_of(rendered))]

    async def _ask(self, model: str, sampling: Facts, questions: Sequence[Messages], what: str) -> list[ModelAnswer]:
        return await self.gateway.answers(
            model,
            sampling,
            questions,
            self.folder / "heldout_answers.jsonl",
            lambda done, total: self.progress(what, done, total),
        )


def heldout_rows(plan: RetrainPlan, state: RunState) -> Sequence[Row]:
    """Returns the rows on which a retraining evaluates the new adapter version.

    They are the task's rows in the plan's held-out file, or if the plan names no file, the held-out rows of the run's
    data set. Raises UsageError if the file is invalid or has no row of the task, CommandError if the data set has no
    held-out rows.
    """
    if plan.heldout:
        rows = [row for row in read_dataset(plan.heldout, plan.task).rows if row.task == plan.task]
        if not rows:
            raise UsageError(
                f"{plan.heldout} (flywheel.eval_data) has no row of the task '{plan.task}' to judge by; add rows with "
                f'"task": "{plan.task}", or name another file'
            )
        return [replace(row, id=f"{plan.heldout.name}:{row.id}") for row in rows]
    found = _of_data_set(Path(state.facts("data")["folder"]) / "heldout.jsonl", plan.task)
    if not found:
        raise CommandError("there are no held-out rows to judge by; name a file of them: flywheel.eval_data")
    return found


def _of_data_set(file: Path, task: str) -> list[Row]:
    return [_row(str(number), task, json.loads(line)) for number, line in numbered(text_of(file))]


def _row(number: str, task: str, read: dict[str, Any]) -> Row:
    if "messages" in read:
        *asked, answer = read["messages"]
        return Row(number, task, tuple(asked), answer["content"], None)
    return Row(number, task, ({"role": "user", "content": read["text"]},), read["output"], None)
