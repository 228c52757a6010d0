"""Generates the answers to held-out rows for as long as there is time, and scores them with the task's metric."""

import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from pointsman_lora_server.training.base_folder import BaseFolder
from pointsman_lora_server.training.batches import Row, batch_by_length
from pointsman_lora_server.training.learner import Learner
from pointsman_lora_server.training.loop import Pace
from pointsman_lora_server.training.prompt_baseline import Question

EXACT, JSON_F1, WORD_F1 = "exact", "json_f1", "word_f1"

_Path = tuple[str | int, ...]
_Leaf = tuple[str, Any]
"""A type and a value, since Python's True equals 1."""

_NOT_JSON: Any = object()


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    expected: str
    actual: str

    @property
    def is_exact(self) -> bool:
        """JSON is compared as a value, everything else as text without surrounding white space."""
        expected, actual = _parse(self.expected), _parse(self.actual)
        if expected is _NOT_JSON or actual is _NOT_JSON:
            return self.expected.strip() == self.actual.strip()
        return dict(_leaves(expected)) == dict(_leaves(actual))


def score(answers: Sequence[ScoredAnswer]) -> dict[str, float]:
    """The share of exact answers and a micro-averaged F1: of JSON leaves if JSON objects are expected, otherwise of
    words in lower case. Empty if there are no answers."""
    if not answers:
        return {}
    exact = {EXACT: sum(answer.is_exact for answer in answers) / len(answers)}
    if all(isinstance(_parse(answer.expected), dict) for answer in answers):
        return exact | {JSON_F1: _f1([(_fields(answer.expected), _fields(answer.actual)) for answer in answers])}
    return exact | {WORD_F1: _f1([(_words(answer.expected), _words(answer.actual)) for answer in answers])}


def _f1(pairs: Sequence[tuple[Counter[Any], Counter[Any]]]) -> float:
    """Twice the number of matches, divided by the number of expected and actual items."""
    matches = sum((expected & actual).total() for expected, actual in pairs)
    total = sum(expected.total() + actual.total() for expected, actual in pairs)
    return 2 * matches / total if total else 1.0


def _fields(text: str) -> Counter[tuple[_Path, _Leaf]]:
    """The leaves, regardless of their position in lists; empty if it is not a JSON object."""
    value = _parse(text)
    if not isinstance(value, dict):
        return Counter()
    return Counter(
        (tuple("[]" if isinstance(step, int) else f"/{step}" for step in path), leaf) for path, leaf in _leaves(value)
    )


def _leaves(value: Any) -> Iterator[tuple[_Path, _Leaf]]:
    """Each leaf with the keys and positions that lead to it, however deep. An empty object or list is a leaf itself."""
    pending: list[tuple[_Path, Any]] = [((), value)]
    while pending:
        path, inner = pending.pop()
        if isinstance(inner, dict | list) and inner:
            steps = inner.items() if isinstance(inner, dict) else enumerate(inner)
            pending += [((*path, step), item) for step, item in steps]
        else:
            yield path, _leaf(inner)


def _leaf(value: Any) -> _Leaf:
    if isinstance(value, dict | list):
        return type(value).__name__, None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number", value
    return type(value).__name__, value


def _words(text: str) -> Counter[str]:
    return Counter(text.casefold().split())


def _parse(text: str) -> Any:
    """The JSON value, or _NOT_JSON if it is not JSON or nested too deeply to read."""
    try:
        return json.loads(text, parse_constant=_reject_constant)
    except (ValueError, RecursionError):
        return _NOT_JSON


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


MAX_LOSS_ROWS = 256
ROWS_PER_BATCH = 16
SPARE_TOKENS = 16
"""How much longer an answer may be than the longest expected one."""

READ_SHARE, TOKEN_SHARE = 0.5, 0.08
"""Measured as fractions of the time of a training step: reading is a forward pass, without the backward one; and one
token each of `ROWS_PER_BATCH` answers."""

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class AnsweredSample:
    question: Question
    text: str

    @property
    def scored(self) -> ScoredAnswer:
        return ScoredAnswer(self.question.example.source.answer, self.text)


def choose(rows: Sequence[_Item], max_rows: int, seed: int) -> list[_Item]:
    """A random choice of at most `max_rows`, in their order."""
    indices = sorted(random.Random(seed).sample(range(len(rows)), min(max_rows, len(rows))))
    return [rows[index] for index in indices]


def estimate_loss_seconds(rows: Sequence[Row], tokens_per_step: int, pace: Pace) -> float:
    return READ_SHARE * pace.seconds_for(batch_by_length(rows, tokens_per_step))


def estimate_answer_seconds(questions: Sequence[Question], tokens_per_step: int, pace: Pace) -> float:
    if not questions:
        return 0.0
    generation = -(-len(questions) // ROWS_PER_BATCH) * _max_new_tokens(questions) * TOKEN_SHARE
    reading = READ_SHARE * sum(len(question.prompt_ids) for question in questions) / tokens_per_step
    return (generation + reading) * pace.seconds_per_token * tokens_per_step


def generate_answers(
    learner: Learner, base: BaseFolder, questions: Sequence[Question], ends_at: float
) -> Iterator[AnsweredSample]:
    """Greedy answers in batches, the shortest prompts first. What is not answered by `ends_at` is left out."""
    ordered = sorted(questions, key=lambda question: len(question.prompt_ids))
    last_seconds = 0.0
    for start in range(0, len(ordered), ROWS_PER_BATCH):
        started = time.monotonic()
        if started + 1.2 * last_seconds > ends_at:
            return
        batch = ordered[start : start + ROWS_PER_BATCH]
        texts = _generate(learner, base, batch, ends_at - started)
        if texts is None:
            return
        yield from map(AnsweredSample, batch, texts)
        last_seconds = time.monotonic() - started


def _generate(learner: Learner, base: BaseFolder, batch: Sequence[Question], seconds: float) -> list[str] | None:
    """None if the time ended before all answers did, since an incomplete answer cannot be scored."""
    longest = max(len(question.prompt_ids) for question in batch)
    ids = torch.full((len(batch), longest), base.end_of_turn)
    mask = torch.zeros((len(batch), longest), dtype=torch.long)
    for row, question in enumerate(batch):
        ids[row, longest - len(question.prompt_ids) :] = torch.tensor(question.prompt_ids)
        mask[row, longest - len(question.prompt_ids) :] = 1
    started = time.monotonic()
    options: dict[str, Any] = {"max_new_tokens": _max_new_tokens(batch), "do_sample": False, "max_time": seconds}
    learner.model.eval()
    with torch.no_grad(), learner.autocast():
        generated = learner.model.generate(
            input_ids=ids.to(learner.device),
            attention_mask=mask.to(learner.device),
            eos_token_id=base.end_of_turn,
            pad_token_id=base.end_of_turn,
            **options,
        )
    learner.model.train()
    new = generated[:, longest:]
    is_complete = new.shape[1] >= options["max_new_tokens"] or bool((new == base.end_of_turn).any(dim=1).all())
    if time.monotonic() - started >= seconds and not is_complete:
        return None
    texts: list[str] = base.tokenizer.batch_decode(new, skip_special_tokens=True)
    return texts


def _max_new_tokens(questions: Sequence[Question]) -> int:
    return max(question.answer_length for question in questions) + SPARE_TOKENS
