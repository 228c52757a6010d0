"""Answers of an engine, token by token, and the reference answers with which they are compared.

If the engine reports log-probabilities, the distributions at each position are compared, up to the first token that
differs: rounding changes a log-probability by a few tenths of a nat, other weights by several nats. If it reports none,
only the texts of the tokens are compared.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

TOLERANCE_NATS = 1.75
"""The largest change of a log-probability, in nats, that counts as rounding.

Over 60 answers of vLLM 0.32 on a CPU, in batches of 12 and alone, the largest change was 1.07, for random adapters.
"""
MIN_DISTANCE_NATS = 2.5
"""The least `distance`, for each prompt, of the answers of two adapter versions that the test can tell apart."""

BASE = "base"
"""The version name that stands for the base model without an adapter."""


@dataclass(frozen=True, slots=True)
class Token:
    name: str
    """The token's id as text; the token's text if the engine reports no ids."""
    logprobs: Mapping[str, float]
    """Log-probabilities in nats of the likeliest tokens at this position, by their names; empty if not reported."""


@dataclass(frozen=True, slots=True)
class TimedAnswer:
    """An engine's answer to one request. `started`, `first_token` and `ended` are seconds of `time.monotonic`.

    If the answer has no token, `first_token` equals `ended`.
    """

    model: str
    """The value of the field `model` in the request."""
    prompt: str
    tokens: tuple[Token, ...]
    text: str
    started: float
    first_token: float
    ended: float
    error: str = ""
    """Why the request failed, for example because the answer has no token; empty if it succeeded."""
    status: int = 0
    """The HTTP status; 0 if there was no response."""
    is_complete: bool = False
    """Whether the answer's stream reached its end without an error from the engine, with or without tokens."""
    is_overload: bool = False
    """Whether the engine was overloaded: it answered with status 429 or 503 and the header Retry-After."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many tokens of an answer agree, or do not agree, with the reference answer of an adapter version."""

    agreeing: int
    """The number of tokens before the first whose log-probabilities differ by more than rounding (TOLERANCE_NATS)."""
    wrong: int
    """The number of tokens from the first different one on; 0 if the answer is that of the adapter version."""
    compared: int
    """The number of tokens that could be compared: up to the first different one, or the end of the shorter answer."""

    @property
    def is_same(self) -> bool:
        return self.wrong == 0


class KnownAnswers:
    """Reference answers of adapter versions to prompts, recorded while no other adapter was loaded or replaced."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str], tuple[Token, ...]] = {}

    def add(self, version: str, answer: TimedAnswer) -> None:
        self._answers[version, answer.prompt] = answer.tokens

    def compare(self, answer: TimedAnswer, version: str) -> Comparison:
        """Compares an answer with the version's reference answer to the same prompt, up to the end of the shorter one.

        Raises KeyError if no reference answer of the version to this prompt was recorded.
        """
        return compare(answer.tokens, self._answers[version, answer.prompt])

    def version_of(self, answer: TimedAnswer, candidates: Iterable[str]) -> str | None:
        """Returns the first of the versions `candidates` whose reference answer agrees with `answer`, or None."""
        known = (version for version in candidates if (version, answer.prompt) in self._answers)
        return next((version for version in known if self.compare(answer, version).is_same), None)

    def are_distinct(self, version: str, other: str, prompts: Sequence[str]) -> bool:
        """Returns whether the reference answers of two adapter versions differ clearly for each of the prompts.

        They differ clearly if their `distance` in log-probabilities is at least MIN_DISTANCE_NATS (2.5 nats).
        """
        return all(
            distance(self._answers[version, prompt], self._answers[other, prompt]) >= MIN_DISTANCE_NATS
            for prompt in prompts
        )

    def is_like(self, version: str, other: str, prompts: Sequence[str]) -> bool:
        """Returns whether two adapter versions have the same reference answers to all prompts, apart from rounding."""
        return all(compare(self._answers[version, prompt], self._answers[other, prompt]).is_same for prompt in prompts)


def compare(tokens: Sequence[Token], known: Sequence[Token]) -> Comparison:
    """Compares an answer with a known answer to the same prompt, up to the first token that differs.

    Tokens after the first difference cannot be compared, since they follow different texts. An answer without tokens
    counts as wrong if the known answer has tokens.
    """
    if not tokens and known:
        return Comparison(0, 1, 0)
    distances = _distances(tokens, known)
    different = next((place for place, each in enumerate(distances) if each > TOLERANCE_NATS), None)
    if different is None:
        return Comparison(len(distances), 0, len(distances))
    return Comparison(different, len(tokens) - different, different + 1)


def distance(tokens: Sequence[Token], known: Sequence[Token]) -> float:
    """Returns the largest difference of log-probabilities, in nats, of two answers up to the first different token.

    The result is infinite if one answer has no tokens, or if tokens differ and have no log-probabilities.
    """
    return max(_distances(tokens, known), default=math.inf)


def _distances(tokens: Sequence[Token], known: Sequence[Token]) -> list[float]:
    distances = []
    for token, other in zip(tokens, known, strict=False):
        distances.append(_token_distance(token, other))
        if token.name != other.name:
            break
    return distances


def _token_distance(token: Token, other: Token) -> float:
    """Returns the largest difference of log-probabilities, in nats, at one position of two answers.

    A token that only one of both lists has: the other one counts it with the log-probability of its least likely token.
    Without log-probabilities, returns 0 if the names are the same, else infinity.
    """
    if not token.logprobs or not other.logprobs:
        return 0.0 if token.name == other.name else math.inf
    own, others = token.logprobs, other.logprobs
    shared = (abs(own[each] - others[each]) for each in own.keys() & others.keys())
    lowest, others_lowest = min(own.values()), min(others.values())
    missing_there = (own[each] - others_lowest for each in own.keys() - others.keys())
    missing_here = (others[each] - lowest for each in others.keys() - own.keys())
    return max(*shared, *missing_there, *missing_here, 0.0, 0.0)
