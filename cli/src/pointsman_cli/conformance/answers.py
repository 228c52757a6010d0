"""Answers of an engine, token by token, and the known answers with which they are compared.

With log-probabilities, an answer is compared with a known one by the distribution at each position, up to the first
token that differs: rounding changes log-probabilities by a few tenths of a nat, other weights by several nats. Without
them, only the texts of the tokens are compared.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

TOLERANCE_NATS = 1.75
"""The largest change of a log-probability that counts as rounding.

Over 60 answers of vLLM 0.32 on a CPU, in batches of 12 and alone, the largest was 1.07, for random adapters.
"""
MIN_DISTANCE_NATS = 2.5
"""How far two versions must differ on each prompt, up to the first token that differs, to be told apart."""

BASE = "base"
"""The name of the base model among the versions."""


@dataclass(frozen=True, slots=True)
class Token:
    name: str
    """The token's number at the engine, as text, or its text if the engine reports no numbers."""
    logprobs: Mapping[str, float]
    """Log-probabilities of the likeliest tokens at this position, in nats, by name; empty if none are reported."""


@dataclass(frozen=True, slots=True)
class TimedAnswer:
    """The answer to one request, and its times on the clock of `time.monotonic`."""

    model: str
    """The model that was requested."""
    prompt: str
    tokens: tuple[Token, ...]
    text: str
    started: float
    first_token: float
    ended: float
    error: str = ""
    """Why it failed; empty if it is complete."""
    status: int = 0
    """The HTTP status; 0 if there was no response."""
    is_complete: bool = False
    """Whether the stream ended without an error, even if without a token."""
    is_overload: bool = False
    """Whether the engine asked to come again later, by status 429 or 503 with Retry-After."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far an answer is that of one version."""

    agreeing: int
    """Tokens before the first one that rounding does not explain."""
    wrong: int
    """Tokens from that one on; 0 if the answer is the version's."""
    compared: int
    """Tokens that could be compared: up to the first difference, or the end of the shorter answer."""

    @property
    def is_same(self) -> bool:
        return self.wrong == 0


class KnownAnswers:
    """What each version answers to each prompt, learned while nothing else was loaded or replaced."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str], tuple[Token, ...]] = {}

    def add(self, version: str, answer: TimedAnswer) -> None:
        self._answers[version, answer.prompt] = answer.tokens

    def compare(self, answer: TimedAnswer, version: str) -> Comparison:
        """Compares an answer with the version's known one to the same prompt, as far as both go."""
        return compare(answer.tokens, self._answers[version, answer.prompt])

    def version_of(self, answer: TimedAnswer, candidates: Iterable[str]) -> str | None:
        """Returns the first of the candidates whose known answer this is; None if there is none."""
        known = (version for version in candidates if (version, answer.prompt) in self._answers)
        return next((version for version in known if self.compare(answer, version).is_same), None)

    def are_distinct(self, version: str, other: str, prompts: Sequence[str]) -> bool:
        """Returns whether two versions differ clearly on each prompt."""
        return all(
            distance(self._answers[version, prompt], self._answers[other, prompt]) >= MIN_DISTANCE_NATS
            for prompt in prompts
        )

    def is_like(self, version: str, other: str, prompts: Sequence[str]) -> bool:
        """Returns whether two versions answer each prompt alike."""
        return all(compare(self._answers[version, prompt], self._answers[other, prompt]).is_same for prompt in prompts)


def compare(tokens: Sequence[Token], known: Sequence[Token]) -> Comparison:
    """Compares two answers to one prompt up to the first token that differs: after it the contexts differ.

    An empty answer is not the same as one with tokens.
    """
    if not tokens and known:
        return Comparison(0, 1, 0)
    distances = _distances(tokens, known)
    different = next((place for place, each in enumerate(distances) if each > TOLERANCE_NATS), None)
    if different is None:
        return Comparison(len(distances), 0, len(distances))
    return Comparison(different, len(tokens) - different, different + 1)


def distance(tokens: Sequence[Token], known: Sequence[Token]) -> float:
    """Returns the largest difference of log-probabilities, in nats, up to the first token that differs."""
    return max(_distances(tokens, known), default=math.inf)


def _distances(tokens: Sequence[Token], known: Sequence[Token]) -> list[float]:
    distances = []
    for token, other in zip(tokens, known, strict=False):
        distances.append(_token_distance(token, other))
        if token.name != other.name:
            break
    return distances


def _token_distance(token: Token, other: Token) -> float:
    """Returns the largest difference of log-probabilities, in nats, over the likeliest tokens of both.

    A token that one of them lacks is at most as likely there as its least likely one, so it counts from that on.
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
