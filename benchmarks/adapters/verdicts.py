"""Whether an answer is what it must be: whole, in the known words of the version that it names, and of a right version.

The rule. An answer names the version that made it. Every token of it must stand in that version's known text, at its
place, and a text that ended by itself must be the whole known one. The adapters are so sure of each of their tokens (4
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

from benchmarks.adapters.asking import Answer
from benchmarks.adapters.configuration import BASE, WORD

SURE = 1.0
"""Nats from the first to the second choice."""
PROMISED = 0.1
"""Seconds in which a move takes effect at every gateway."""


@dataclass(frozen=True, slots=True)
class Move:
    """An alias was pointed to a version between two moments."""

    version: str
    called: float
    answered: float


class Points:
    """Where each alias pointed, and when, as the one who moves them knows it."""

    def __init__(self) -> None:
        self._moves: dict[str, list[Move]] = {}

    async def moving(self, alias: str, call: Awaitable[pb.Alias]) -> pb.Alias:
        """Writes down where `call` has pointed the alias to. Moves of one alias must come one after the other."""
        called = time.monotonic()
        moved = await call
        self.moved(alias, Move(moved.version, called, time.monotonic()))
        return moved

    def moved(self, alias: str, move: Move) -> None:
        self._moves.setdefault(alias, []).append(move)

    def now(self, alias: str) -> str:
        return self._moves[alias][-1].version

    def pointed(self, alias: str, version: str, begun: float, first: float, promised: float = PROMISED) -> bool:
        """Whether it did at some moment from `begun` to `first`, the promise's time allowed for."""
        moves = self._moves.get(alias, [])
        ends = [move.answered + promised for move in moves[1:]] + [float("inf")]
        return any(
            move.version == version and move.called <= first and end >= begun
            for move, end in zip(moves, ends, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Texts:
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


def judged(answers: Iterable[Answer], texts: Texts, points: Points) -> Verdict:
    verdict = Verdict()
    for answer in answers:
        verdict.answers += 1
        verdict.tokens += len(answer.pieces)
        verdict.by_model[answer.model] += 1
        if answer.error:
            verdict.failed += 1
            verdict.errors[answer.error[:120]] += 1
        wrong = wrong_tokens(answer, texts, points)
        if wrong:
            verdict.wrong_tokens += wrong
            verdict.wrong_answers += 1
            verdict.examples.append(f"asked {answer.asked}, answered by {answer.model}: {answer.text[:200]!r}")
        elif _is_late(answer, points):
            verdict.late += 1
    return verdict


def _is_late(answer: Answer, points: Points) -> bool:
    alias = _alias(answer.asked)
    if alias is None or not answer.pieces:
        return False
    return not points.pointed(alias, answer.model, answer.begun, answer.first, promised=0.0)


def wrong_tokens(answer: Answer, texts: Texts, points: Points) -> int:
    if not answer.pieces:
        return 0  # nothing was served; where that is a failure, the answer's error says so
    alias = _alias(answer.asked)
    if alias is None:
        if answer.model != BASE:
            return len(answer.pieces)
        return _wrong_in_base(answer, texts)
    if answer.model not in texts.versions or not points.pointed(alias, answer.model, answer.begun, answer.first):
        return len(answer.pieces)
    return _differing(answer, texts.versions[answer.model], whole=answer.finish == "stop" and not answer.error)


def _alias(asked: str) -> str | None:
    """None where the base model was asked for."""
    if asked in (BASE, "path:base"):
        return None
    return f"{asked.removeprefix('path:')}@{WORD}" if asked.startswith("path:") else asked


def _wrong_in_base(answer: Answer, texts: Texts) -> int:
    known = texts.base[answer.question]
    foreign = sum(answer.text.count(mark) for mark in texts.marks)
    return max(foreign, _differing(answer, known, whole=False))


def _differing(answer: Answer, known: str, *, whole: bool) -> int:
    """Tokens that do not stand in `known` at their place; behind its end nothing is known, unless it is `whole`."""
    place, wrong = 0, 0
    for _, piece in answer.pieces:
        expected = known[place : place + len(piece)]
        same = piece == expected if whole else piece.startswith(expected) or expected.startswith(piece)
        wrong += not same
        place += len(piece)
    if whole and place < len(known) and not wrong:
        return 1  # the end of the turn stood where a word should have
    return wrong
