"""The third step: the new version and what answers now, on the same held-out rows, through the gateway."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointsman_scoring import Metric, MetricError, metric_from

from pointsman_cli.distill.asking import Answer
from pointsman_cli.distill.data_step import Asks
from pointsman_cli.distill.gates import examine
from pointsman_cli.distill.machine import Taken
from pointsman_cli.distill.plan import Plan, Row
from pointsman_cli.distill.state import Facts, RunState
from pointsman_cli.distill.train_step import Knows
from pointsman_cli.errors import CommandError, Misused

MOST_SHOWN = 5
"""Rows that are answered worse, in the state."""


@dataclass(frozen=True, slots=True)
class EvaluateStep:
    plan: Plan
    gateway: Asks
    registry: Knows
    folder: Path
    """Of the run."""
    progress: Callable[[str, int, int], None]
    name: str = "evaluate"

    async def take(self, state: RunState, note: Callable[[Facts], None]) -> Taken:
        metric, rows = to_metric(self.plan), self._rows(state)
        incumbent = await self._incumbent()
        theirs = await self._ask(f"path:{incumbent}", {}, rows, f"asking {incumbent}")
        ours = await self._ask(state.version, self.plan.asking, rows, f"asking {state.version}")
        old, new = scores(metric, rows, theirs), scores(metric, rows, ours)
        found = examine(self.plan.gates, old, new)
        worse = [
            {"asked": row.messages[-1]["content"], "expected": row.output, "now": a.text, "new": b.text}
            for row, a, b, before, after in zip(rows, theirs, ours, old, new, strict=True)
            if after < before
        ]
        facts = {
            "compared_with": incumbent,
            "decided_by": self._decided_by,
            **found.as_json(),
            "worse": worse[:MOST_SHOWN],
        }
        return Taken(f"{found} ({incumbent})", {"examination": facts}, "; ".join(found.objections))

    @property
    def _decided_by(self) -> str:
        return "the configuration's held-out rows" if self.plan.heldout else "rows held out of the data set"

    def _rows(self, state: RunState) -> Sequence[Row]:
        rows = self.plan.heldout or read_rows(Path(state.facts("data")["folder"]) / "heldout.jsonl")
        if not rows:
            raise CommandError("there are no held-out rows to judge by; name a file of them: flywheel.heldout")
        return rows

    async def _incumbent(self) -> str:
        if self.plan.incumbent:
            return self.plan.incumbent
        return self.plan.student if await self.registry.stable(self.plan.alias) else self.plan.teacher

    async def _ask(self, model: str, asking: Facts, rows: Sequence[Row], what: str) -> list[Answer]:
        return await self.gateway.answers(
            model,
            asking,
            [row.messages for row in rows],
            self.folder / "heldout_answers.jsonl",
            lambda done, total: self.progress(what, done, total),
        )


def to_metric(plan: Plan) -> Metric:
    """Raises Misused, also for a metric that asks a model."""
    try:
        return metric_from(plan.metric)
    except MetricError as error:
        raise Misused(f"the metric of task '{plan.task}' cannot decide on an adapter: {error}") from error


def scores(metric: Metric, rows: Sequence[Row], answers: Sequence[Answer]) -> list[float]:
    """From 0 to 1; what was not answered is 0. Raises CommandError where a label is of no use to the metric."""
    try:
        return [
            0.0 if answer.error else metric.score(answer.text, row.output)
            for row, answer in zip(rows, answers, strict=True)
        ]
    except MetricError as error:
        raise CommandError(f"a held-out row cannot be scored: {error}") from error


def read_rows(file: Path) -> list[Row]:
    """Of a data set's file."""
    return [_row(json.loads(line)) for line in file.read_text("utf-8").splitlines()]


def _row(read: dict[str, Any]) -> Row:
    if "messages" in read:
        *asked, answer = read["messages"]
        return Row(tuple(asked), answer["content"])
    return Row(({"role": "user", "content": read["text"]},), read["output"])
