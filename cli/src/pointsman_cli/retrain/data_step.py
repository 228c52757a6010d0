"""Step 1 of a retraining: requests answers to new prompts from the teacher path, and builds the next data set.

The teacher is the path whose answers the adapter learns. Each answer is stored as soon as it arrives, so an interrupted
step does not request it again.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx

from pointsman_cli.errors import CommandError, Refused, Unreachable, UsageError
from pointsman_cli.eval.dataset import numbered, parsed, text_of, whole_lines
from pointsman_cli.gateway_http import AnswerEnd, TextChunk, open_client, run_concurrently, stream_answer
from pointsman_cli.retrain.run_state import Facts, RetrainPlan, RunState, StepResult
from pointsman_cli.retrain.training_method import RetrainMethod

ROWS, ROWS_OF_PAIRS = ("rows", "train", "heldout"), ("pairs", "pairs", "heldout_pairs")
"""Names for training on rows, and for training on pairs: what messages call them, then the data set's training file and
held-out file without ".jsonl". The counts in the manifest have the names of the files.
"""

CONCURRENCY = 4
MAX_ATTEMPTS = 6
RETRY_SECONDS, MAX_RETRY_SECONDS = 5.0, 30.0
"""The wait in seconds before a failed request is repeated, if the gateway states none; and the longest wait."""
PROMPT_ERRORS = ("context_length_exceeded", "engine_refused")
"""The codes of gateway errors that the prompt itself causes; such a request counts as answered, with an empty text."""
FATAL_ERRORS = ("missing_key", "unknown_key", "revoked_key", "expired_key", "not_in_scope", "unknown_model")
"""Codes of gateway errors that would occur for every request; they end the step. After other errors, except
PROMPT_ERRORS, the request is retried.
"""

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """A model's answer to one request of a retraining, as one line of the file that stores the answers."""

    place: str
    """A digest of the request's body, by which the stored answer is found again."""
    text: str
    finish_reason: str
    """Why the answer ended, in OpenAI's terms: "stop", or "length" at the token limit."""
    error: str = ""
    """The error's code if the request failed with one of PROMPT_ERRORS; the text is empty then."""


class AnswerSource(Protocol):
    """Interface for getting answers to many prompts from one path or adapter of the gateway; `Gateway`
    implements it.
    """

    async def answers(
        self,
        model: str,
        sampling: Facts,
        questions: Sequence[Messages],
        file: Path,
        progress: Callable[[int, int], None],
    ) -> list[ModelAnswer]: ...


class DatasetBuilder(Protocol):
    """Interface for building a data set; a function in `run_retraining` implements it."""

    async def __call__(self, teacher_answers: Path | None) -> dict[str, Any]:
        """Builds a data set from the request log and the file `teacher_answers`; None: there are no teacher's answers.

        Returns at least the data set's `folder` and `manifest`. Raises CommandError if it cannot be built.
        """
        ...


class RowRenderer(Protocol):
    """Interface for turning training rows into the prompts that the trained path will send for such requests."""

    async def __call__(self, data: Path, held_out: Path | None) -> tuple[Path, Path | None, str]:
        """Renders the rows of two files as prompts of the path that will use the adapter, as `Rendering.render` does.

        Returns the file of training rows, the file of held-out rows (None if there are none), and a text with the
        numbers of rows. Raises CommandError if the rows cannot be rendered.
        """
        ...


@dataclass(frozen=True, slots=True)
class DataStep:
    """Step 1 of a retraining: builds the task's next data set; implements `Step`.

    If the user gave a file of prompts, the teacher path answers them first. The retraining ends after this step if
    there are too few rows to learn from.
    """

    plan: RetrainPlan
    method: RetrainMethod
    gateway: AnswerSource
    build: DatasetBuilder
    render: RowRenderer
    folder: Path
    """The folder of this retraining, in which the teacher's answers are stored."""
    texts: Path | None
    """The file of new prompts (see `read_prompts`); None if there are no new prompts."""
    progress: Callable[[str, int, int], None]
    """A function that shows progress; it gets a name for what is counted, the number done, and the total."""
    name: str = "data"

    async def take(self, state: RunState, note: Callable[[Facts], None]) -> StepResult:
        found = await self.build(await self._request_teacher_answers() if self.texts else None)
        manifest = found["manifest"]
        counts = manifest["counts"]
        facts = {
            "folder": found["folder"],
            "name": manifest["name"],
            "counts": counts,
            "sources": manifest["sources"]["train"],
            "digests": manifest["digests"],
        }
        what, train, held_out = ROWS_OF_PAIRS if self.method.learns_from_pairs else ROWS
        rows = counts[train]
        summary = (
            f"{manifest['task']}/{manifest['name']}: {rows} {what} to learn from, {counts['heldout']} rows held out"
        )
        least = self.plan.gates.min_rows
        folder = Path(found["folder"])
        data, evaluated = folder / f"{train}.jsonl", folder / f"{held_out}.jsonl" if counts[held_out] else None
        if self.plan.is_rendered and rows >= least:
            data, evaluated, rendered = await self.render(data, evaluated)
            summary += f"; {rendered}"
        facts |= {"train_file": str(data), "heldout_file": str(evaluated or "")}
        return StepResult(summary, facts, f"{rows} {what} to learn from: under {least}" if rows < least else "")

    async def _request_teacher_answers(self) -> Path:
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
    """Returns the prompts of a file, without duplicates. Each line is one prompt, as plain text or as {"text": PROMPT}.

    Raises UsageError if the file cannot be read, or if a line that begins with "{" is not JSON of this form.
    """
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


class Gateway:
    """The client by which a retraining requests answers from the gateway; implements AnswerSource."""

    def __init__(self, url: str, key: str = "") -> None:
        """Takes the base URL of the gateway, and in `key` an API key if the gateway needs one."""
        self._url = url
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    def open(self) -> httpx.AsyncClient:
        return open_client(self._url, self._headers)

    async def answers(
        self,
        model: str,
        sampling: Mapping[str, Any],
        questions: Sequence[Messages],
        file: Path,
        progress: Callable[[int, int], None],
    ) -> list[ModelAnswer]:
        """Sends each of `questions` to `model`, such as "path:NAME"; returns the answers in the same order.

        Up to CONCURRENCY requests are sent at the same time, with the fields of `sampling` in their bodies. Each answer
        is appended to `file` as it arrives, and an answer that is in the file already is not requested again.
        `progress` is called after each answer, with the numbers of answered questions and of all questions.

        If the prompt itself causes an error (PROMPT_ERRORS), the answer's `error` is the error's code. Raises
        CommandError if a request fails otherwise, after retries if they may help, and UsageError if `file` cannot be
        read.
        """
        bodies = [{"model": model, "messages": list(question), "stream": False, **sampling} for question in questions]
        places = [_prompt_digest(body) for body in bodies]
        known = {answer.place: answer for answer in _read_answers(file)}
        missing = {place: body for place, body in zip(places, bodies, strict=True) if place not in known}
        async with self.open() as client:

            async def ask(place: str) -> None:
                known[place] = await _answer(client, place, missing[place])
                _append_answer(file, known[place])
                progress(sum(one in known for one in places), len(places))

            await run_concurrently(ask, missing, CONCURRENCY)
        return [known[place] for place in places]


async def _answer(client: httpx.AsyncClient, place: str, body: Mapping[str, Any]) -> ModelAnswer:
    """Requests one answer in up to `MAX_ATTEMPTS` attempts; one of PROMPT_ERRORS is returned as the answer's `error`.

    Raises Unreachable, and Refused with one of FATAL_ERRORS, at once; any other CommandError after the last attempt.
    """
    for tries_left in reversed(range(MAX_ATTEMPTS)):
        wait = RETRY_SECONDS
        try:
            return await _request(client, place, body)
        except Unreachable:
            raise
        except Refused as error:
            if error.code in PROMPT_ERRORS:
                return ModelAnswer(place, "", "", error.code)
            if error.code in FATAL_ERRORS or not tries_left:
                raise
            wait = error.retry_after or RETRY_SECONDS
        except CommandError:
            if not tries_left:
                raise
        await asyncio.sleep(min(wait, MAX_RETRY_SECONDS))
    raise AssertionError("the last try returns or raises")


async def _request(client: httpx.AsyncClient, place: str, body: Mapping[str, Any]) -> ModelAnswer:
    text, ending = "", AnswerEnd()
    async for event in stream_answer(client, body):
        if isinstance(event, TextChunk):
            text += event.content
        elif isinstance(event, AnswerEnd):
            ending = event
    return ModelAnswer(place, text, ending.finish_reason or "")


def _prompt_digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]


def _read_answers(file: Path) -> Iterable[ModelAnswer]:
    """Yields the answers that are stored in the file, if it exists; skips lines that are not answers.

    Removes an incomplete last line, which a killed process may have left, from the file. Raises UsageError if the file
    cannot be read.
    """
    if not file.is_file():
        return
    for _, line in whole_lines(file):
        try:
            yield ModelAnswer(**json.loads(line))
        except (ValueError, TypeError):
            continue


def _append_answer(file: Path, answer: ModelAnswer) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as opened:
        opened.write(json.dumps(asdict(answer), ensure_ascii=False) + "\n")
