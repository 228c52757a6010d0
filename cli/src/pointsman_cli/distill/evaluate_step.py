"""The third step: the new version and what answers now, on the same held-out rows, through the gateway."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pointsman_cli.distill.asking import Answer
from pointsman_cli.distill.data_step import Asks
from pointsman_cli.distill.gates import examine
from pointsman_cli.distill.machine import Taken
from pointsman_cli.distill.plan import Plan
from pointsman_cli.distill.scoring import check, scores
from pointsman_cli.distill.state import Facts, RunState
from pointsman_cli.distill.train_step import Knows
from pointsman_cli.errors import CommandError
from pointsman_cli.eval import rows as labelled
from pointsman_cli.eval.rows import Row
from pointsman_cli.eval.scoring import Scorer
from pointsman_cli.json_lines import numbered, text_of

MOST_SHOWN = 5
"""Rows that are answered worse, in the state."""


@dataclass(frozen=True, slots=True)
class Marked:
    """A row, both answers to it, and how good they are."""

    row: Row
    now: Answer
    new: Answer
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
    plan: Plan
    gateway: Asks
    registry: Knows
    scorer: Scorer
    folder: Path
    """Of the run."""
    progress: Callable[[str, int, int], None]
    name: str = "evaluate"

    async def take(self, state: RunState, note: Callable[[Facts], None]) -> Taken:
        rows = heldout_rows(self.plan, state)
        check(self.scorer, rows)
        incumbent = await self._incumbent()
        marked = await self._marked(rows, incumbent, state.version)
        found = examine(self.plan.gates, [one.old_score for one in marked], [one.new_score for one in marked])
        worse = [one.as_json() for one in marked if one.new_score < one.old_score]
        facts = {
            "compared_with": incumbent,
            "decided_by": str(self.plan.heldout or "rows held out of the data set"),
            **found.as_json(),
            "worse": worse[:MOST_SHOWN],
        }
        return Taken(f"{found} ({incumbent})", {"examination": facts}, "; ".join(found.objections))

    async def _incumbent(self) -> str:
        if self.plan.incumbent:
            return self.plan.incumbent
        return self.plan.student if await self.registry.stable(self.plan.alias) else self.plan.teacher

    async def _marked(self, rows: Sequence[Row], incumbent: str, version: str) -> list[Marked]:
        """Without those on which a judge could not say anything. Raises CommandError where none is left."""
        theirs = await self._ask(f"path:{incumbent}", {}, rows, f"asking {incumbent}")
        ours = await self._ask(version, self.plan.asking, rows, f"asking {version}")
        old, new = await scores(self.scorer, rows, theirs), await scores(self.scorer, rows, ours)
        marked = [
            Marked(row, now, later, before, after)
            for row, now, later, before, after in zip(rows, theirs, ours, old, new, strict=True)
            if before is not None and after is not None
        ]
        if not marked:
            raise CommandError("the judge could say nothing of any answer")
        return marked

    async def _ask(self, model: str, asking: Facts, rows: Sequence[Row], what: str) -> list[Answer]:
        return await self.gateway.answers(
            model,
            asking,
            [row.messages for row in rows],
            self.folder / "heldout_answers.jsonl",
            lambda done, total: self.progress(what, done, total),
        )


def heldout_rows(plan: Plan, state: RunState) -> Sequence[Row]:
    """Raises Misused where the configuration's file is not as it should be, CommandError where there are none."""
    if plan.heldout:
        rows = labelled.read(plan.heldout, plan.task).rows
        return [replace(row, id=f"{plan.heldout.name}:{row.id}") for row in rows if row.task == plan.task]
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
