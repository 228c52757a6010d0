"""Step 1: asks the teacher path for answers to new prompts, and builds the next data set."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pointsman_cli.errors import UsageError
from pointsman_cli.json_lines import numbered, parsed, text_of
from pointsman_cli.retrain.answers import Messages, ModelAnswer
from pointsman_cli.retrain.plan import RetrainPlan
from pointsman_cli.retrain.run_state import Facts, RunState, StepResult

PAIRS_METHOD = "dpo"
"""The training method that uses preference pairs."""


class AnswerSource(Protocol):
    async def answers(
        self, model: str, asking: Facts, questions: Sequence[Messages], file: Path, progress: Callable[[int, int], None]
    ) -> list[ModelAnswer]: ...


class DatasetBuilder(Protocol):
    async def __call__(self, taught: Path | None) -> dict[str, Any]:
        """Builds a data set and returns the facts of its report."""
        ...


@dataclass(frozen=True, slots=True)
class DataStep:
    plan: RetrainPlan
    method: str
    gateway: AnswerSource
    build: DatasetBuilder
    folder: Path
    """Folder of the run."""
    texts: Path | None
    progress: Callable[[str, int, int], None]
    name: str = "data"

    async def take(self, state: RunState, note: Callable[[Facts], None]) -> StepResult:
        found = await self.build(await self._taught() if self.texts else None)
        manifest = found["manifest"]
        counts = manifest["counts"]
        facts = {
            "folder": found["folder"],
            "name": manifest["name"],
            "counts": counts,
            "sources": manifest["sources"]["train"],
            "digests": manifest["digests"],
        }
        rows = counts["pairs" if self.method == PAIRS_METHOD else "train"]
        what = "pairs" if self.method == PAIRS_METHOD else "rows"
        said = f"{manifest['task']}/{manifest['name']}: {rows} {what} to learn from, {counts['heldout']} rows held out"
        least = self.plan.gates.least_rows
        return StepResult(said, facts, f"{rows} {what} to learn from: under {least}" if rows < least else "")

    async def _taught(self) -> Path:
        """Returns a file with the teacher's answers."""
        assert self.texts is not None
        texts = read_prompts(self.texts)
        answers = await self.gateway.answers(
            f"path:{self.plan.teacher}",
            {},
            [({"role": "user", "content": text},) for text in texts],
            self.folder / "teacher_answers.jsonl",
            lambda done, total: self.progress("asking the teacher", done, total),
        )
        file = self.folder / "taught.jsonl"
        rows = zip(texts, answers, strict=True)
        lines = [
            json.dumps({"text": text, "answer": a.text, "finish_reason": a.finish_reason}, ensure_ascii=False)
            for text, a in rows
            if not a.error
        ]
        file.write_text("".join(line + "\n" for line in lines), "utf-8")
        return file


def read_prompts(file: Path) -> list[str]:
    """Reads lines of {"text": ...} or plain text; raises UsageError with the line number."""
    return list(dict.fromkeys(_text(file, number, line.strip()) for number, line in numbered(text_of(file))))


def _text(file: Path, number: int, line: str) -> str:
    if not line.startswith("{"):
        return line
    form = '{"text": "..."}'
    try:
        text, problem = parsed(line).get("text"), f"is not {form}"
    except ValueError as error:
        text, problem = None, str(error)
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"{file}:{number} begins with {{ and {problem}; a text that begins so is written as {form}")
    return text
