"""The first step: the teacher is asked where there are texts for it, and the next data set is made."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pointsman_cli.distill.asking import Answer, Messages
from pointsman_cli.distill.machine import Taken
from pointsman_cli.distill.plan import Plan
from pointsman_cli.distill.state import Facts, RunState
from pointsman_cli.errors import UsageError
from pointsman_cli.json_lines import numbered, parsed, text_of

PAIRS = "dpo"
"""The method that learns from pairs."""


class Asks(Protocol):
    async def answers(
        self, model: str, asking: Facts, questions: Sequence[Messages], file: Path, progress: Callable[[int, int], None]
    ) -> list[Answer]: ...


class Builds(Protocol):
    async def __call__(self, taught: Path | None) -> dict[str, Any]:
        """What `pointsman data build --json` says."""
        ...


@dataclass(frozen=True, slots=True)
class DataStep:
    plan: Plan
    method: str
    gateway: Asks
    build: Builds
    folder: Path
    """Of the run."""
    texts: Path | None
    progress: Callable[[str, int, int], None]
    name: str = "data"

    async def take(self, state: RunState, note: Callable[[Facts], None]) -> Taken:
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
        rows = counts["pairs" if self.method == PAIRS else "train"]
        what = "pairs" if self.method == PAIRS else "rows"
        said = f"{manifest['task']}/{manifest['name']}: {rows} {what} to learn from, {counts['heldout']} rows held out"
        least = self.plan.gates.least_rows
        return Taken(said, facts, f"{rows} {what} to learn from: under {least}" if rows < least else "")

    async def _taught(self) -> Path:
        """The teacher's answers, as a file for the data set."""
        assert self.texts is not None
        texts = read_texts(self.texts)
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


def read_texts(file: Path) -> list[str]:
    """Of lines of {"text": ...}, or of plain text. Raises Misused, naming the line."""
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
