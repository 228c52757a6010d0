"""Checks that an answer is complete, has the text of the version that it names, and that this version was allowed.

An answer names the version that generated it. Every token must equal the one at the same position of that version's
known text, and an answer that ended by itself must be the whole text. The adapters prefer each of their tokens by at
least 4 nats, and rounding in batches changes this by a few hundredths, so a wrong token is never due to rounding. The
base model's text is known up to the first token that it prefers by less than BASE_MARGIN_NATS; after that, its answer
must not contain an adapter's phrases. The version must be one to which the alias pointed at some time between the start
of the request and its first token. A gateway may use the previous version for ALIAS_DELAY_SECONDS after the change
returned. If the version was not allowed, every token of the answer counts as wrong.
"""

import time
from collections import Counter
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, field

from pointsman.v1 import lora_server_pb2 as pb

from benchmarks.adapters.services import ALIAS_SUFFIX, BASE
from benchmarks.adapters.streaming_client import Answer

BASE_MARGIN_NATS = 1.0
"""Margin, in nats, above which a token of the base model is considered known."""
ALIAS_DELAY_SECONDS = 0.1
"""Time within which every gateway must follow a change of an alias."""


@dataclass(frozen=True, slots=True)
class AliasMove:
    """A change of an alias to a version, with the times at which the call was made and returned."""

    version: str
    called: float
    answered: float


class AliasHistory:
    """Records to which version each alias pointed at which time; the caller of the changes reports them."""

    def __init__(self) -> None:
        self._moves: dict[str, list[AliasMove]] = {}

    async def record_call(self, alias: str, call: Awaitable[pb.Alias]) -> pb.Alias:
        """Awaits `call` and records its change. Changes of one alias must be sequential."""
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
        """Returns whether the alias pointed to the version at some time from `started` to `first`, or up to
        `allowed_delay` earlier.
        """
        moves = self._moves.get(alias, [])
        ends = [move.answered + allowed_delay for move in moves[1:]] + [float("inf")]
        return any(
            move.version == version and move.called <= first and end >= started
            for move, end in zip(moves, ends, strict=True)
        )


@dataclass(frozen=True, slots=True)
class ExpectedTexts:
    """The texts that are expected, which are known before the measurement."""

    versions: Mapping[str, str]
    """By version, its whole text."""
    base: Mapping[str, str]
    """By question, the known beginning of the base model's answer."""
    marks: frozenset[str]
    """Phrases that occur only in adapters' texts: an adapter's word followed by a number."""


@dataclass(slots=True)
class Verdict:
    """Counts of right and wrong answers over a measurement."""

    answers: int = 0
    tokens: int = 0
    failed: int = 0
    wrong_tokens: int = 0
    wrong_answers: int = 0
    late: int = 0
    """Number of answers by the previous version within the allowed delay."""
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
        return 0  # if an empty answer is a failure, its error says so
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
    """Returns the requested alias, or None for the base model."""
    if requested in (BASE, "path:base"):
        return None
    return f"{requested.removeprefix('path:')}@{ALIAS_SUFFIX}" if requested.startswith("path:") else requested


def _wrong_in_base(answer: Answer, texts: ExpectedTexts) -> int:
    known = texts.base[answer.question]
    foreign = sum(answer.text.count(mark) for mark in texts.marks)
    return max(foreign, _count_differences(answer, known, whole=False))


def _count_differences(answer: Answer, known: str, *, whole: bool) -> int:
    """Counts the tokens that differ from `known`. Tokens after the end of `known` are not checked, unless `whole` is
    set.
    """
    position, wrong = 0, 0
    for _, chunk in answer.chunks:
        expected = known[position : position + len(chunk)]
        same = chunk == expected if whole else chunk.startswith(expected) or expected.startswith(chunk)
        wrong += not same
        position += len(chunk)
    if whole and position < len(known) and not wrong:
        return 1  # the answer ended too early
    return wrong
