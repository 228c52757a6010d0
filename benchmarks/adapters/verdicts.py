"""Whether an answer is what it must be: whole, in the known words of the version that it names, and of a right version.

The rule. An answer names the version that made it. Every token of it must stand in that version's known text, at its
position, and a text that ended by itself must be the whole known one. The adapters are so sure of each of their tokens (4
nats and more before the second choice, where a batch's rounding moves a few hundredths) that no near-tie can excuse or
hide a difference. The base model is not: its known text holds as far as it is sure by `SURE` nats, and behind that
nothing may stand that only an adapter says. The version must be one to which the alias pointed at some moment between
the request's start and its first token; a gateway may still send by the former one for `PROMISED` seconds after the
move was answered. Every token of an answer by a version to which the alias did not point is a wrong one, whatever it
says.
"""

import time
from collections import Counter
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, field

from pointsman.v1 import lora_server_pb2 as pb

from benchmarks.adapters.services import ALIAS_SUFFIX, BASE
from benchmarks.adapters.streaming_client import Answer

BASE_MARGIN_NATS = 1.0
"""Nats from the first to the second choice."""
ALIAS_DELAY_SECONDS = 0.1
"""Seconds in which a move takes effect at every gateway."""


@dataclass(frozen=True, slots=True)
class AliasMove:
    """An alias was pointed to a version between two moments."""

    version: str
    called: float
    answered: float


class AliasHistory:
    """Where each alias pointed, and when, as the one who moves them knows it."""

    def __init__(self) -> None:
        self._moves: dict[str, list[AliasMove]] = {}

    async def record_call(self, alias: str, call: Awaitable[pb.Alias]) -> pb.Alias:
        """Writes down where `call` has pointed the alias to. Moves of one alias must come one after the other."""
        called = time.monotonic()
        changed = await call
        self.record(alias, AliasMove(changed.version, called, time.monotonic()))
        return changed

    def record(self, alias: str, move: AliasMove) -> None:
        self._moves.setdefault(alias, []).append(move)

    def current_version(self, alias: str) -> str:
        return self._moves[alias][-1].version

    def pointed_to(
        self, alias: str, version: str, started: float, first: float, allowed_delay: float = ALIAS_DELAY_SECONDS
    ) -> bool:
        """Whether it did at some moment from `begun` to `first`, the promise's time allowed for."""
        moves = self._moves.get(alias, [])
        ends = [move.answered + allowed_delay for move in moves[1:]] + [float("inf")]
        return any(
            move.version == version and move.called <= first and end >= started
            for move, end in zip(moves, ends, strict=True)
        )


@dataclass(frozen=True, slots=True)
class ExpectedTexts:
    """What is known beforehand."""

    versions: Mapping[str, str]
    """By version."""
    base: Mapping[str, str]
    """By question, as far as the base model is sure."""
    marks: frozenset[str]
    """What only adapters say: a word of theirs and the number behind it."""


@dataclass(slots=True)
class Verdict:
    """Over many answers."""

    answers: int = 0
    tokens: int = 0
    failed: int = 0
    wrong_tokens: int = 0
    wrong_answers: int = 0
    late: int = 0
    """By the former version, within the promise's time of the move."""
    errors: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    by_model: Counter[str] = field(default_factory=Counter)


def check_answers(answers: Iterable[Answer], texts: ExpectedTexts, history: AliasHistory) -> Verdict:
    verdict = Verdict()
    for answer in answers:
        verdict.answers += 1
        verdict.tokens += len(answer.chunks)
        verdict.by_model[answer.model] += 1
        if answer.error:
            verdict.failed += 1
            verdict.errors[answer.error[:120]] += 1
        wrong = count_wrong_tokens(answer, texts, history)
        if wrong:
            verdict.wrong_tokens += wrong
            verdict.wrong_answers += 1
            verdict.examples.append(f"requested {answer.requested}, answered by {answer.model}: {answer.text[:200]!r}")
        elif _is_late(answer, history):
            verdict.late += 1
    return verdict


def _is_late(answer: Answer, history: AliasHistory) -> bool:
    alias = _alias(answer.requested)
    if alias is None or not answer.chunks:
        return False
    return not history.pointed_to(alias, answer.model, answer.started, answer.first_token_at, allowed_delay=0.0)


def count_wrong_tokens(answer: Answer, texts: ExpectedTexts, history: AliasHistory) -> int:
    if not answer.chunks:
        return 0  # nothing was served; where that is a failure, the answer's error says so
    alias = _alias(answer.requested)
    if alias is None:
        if answer.model != BASE:
            return len(answer.chunks)
        return _wrong_in_base(answer, texts)
    if answer.model not in texts.versions or not history.pointed_to(
        alias, answer.model, answer.started, answer.first_token_at
    ):
        return len(answer.chunks)
    return _count_differences(answer, texts.versions[answer.model], whole=answer.finish == "stop" and not answer.error)


def _alias(requested: str) -> str | None:
    """None where the base model was asked for."""
    if requested in (BASE, "path:base"):
        return None
    return f"{requested.removeprefix('path:')}@{ALIAS_SUFFIX}" if requested.startswith("path:") else requested


def _wrong_in_base(answer: Answer, texts: ExpectedTexts) -> int:
    known = texts.base[answer.question]
    foreign = sum(answer.text.count(mark) for mark in texts.marks)
    return max(foreign, _count_differences(answer, known, whole=False))


def _count_differences(answer: Answer, known: str, *, whole: bool) -> int:
    """Tokens that do not stand in `known` at their position; behind its end nothing is known, unless it is `whole`."""
    position, wrong = 0, 0
    for _, chunk in answer.chunks:
        expected = known[position : position + len(chunk)]
        same = chunk == expected if whole else chunk.startswith(expected) or expected.startswith(chunk)
        wrong += not same
        position += len(chunk)
    if whole and position < len(known) and not wrong:
        return 1  # the end of the turn stood where a word should have
    return wrong
