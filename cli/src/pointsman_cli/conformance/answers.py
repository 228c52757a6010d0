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
"""The least `distance` between the answers of two versions to each prompt that makes their answers distinguishable."""

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
    """The answer to one request. `started`, `first_token` and `ended` are seconds of `time.monotonic`.

    `first_token` is the time of the end if there was no token.
    """

    model: str
    """The model name in the request."""
    prompt: str
    tokens: tuple[Token, ...]
    text: str
    started: float
    first_token: float
    ended: float
    error: str = ""
    """Why the request failed, including an answer without a token; empty if it did not fail."""
    status: int = 0
    """The HTTP status; 0 if there was no response."""
    is_complete: bool = False
    """Whether the stream reached its end without an error from the engine; also True if it had no token."""
    is_overload: bool = False
    """Whether the engine was overloaded: it answered with status 429 or 503 and the header Retry-After."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far an answer agrees with the known answer of one version; all fields are numbers of tokens."""

    agreeing: int
    """The tokens before the first one whose log-probabilities differ by more than rounding (TOLERANCE_NATS)."""
    wrong: int
    """The tokens from that one on; 0 if the answer is the version's."""
    compared: int
    """The tokens that could be compared: up to the first difference, or to the end of the shorter answer."""

    @property
    def is_same(self) -> bool:
        return self.wrong == 0


class KnownAnswers:
    """The answers of each adapter version to each prompt of the swap test, with which later answers are compared.

    They were recorded while no other adapter was loaded or replaced.
    """

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str], tuple[Token, ...]] = {}

    def add(self, version: str, answer: TimedAnswer) -> None:
        self._answers[version, answer.prompt] = answer.tokens

    def compare(self, answer: TimedAnswer, version: str) -> Comparison:
        """Compares an answer with the version's known answer to the same prompt, to the end of the shorter one.

        Raises KeyError if the version's answer to this prompt is not known.
        """
        return compare(answer.tokens, self._answers[version, answer.prompt])

    def version_of(self, answer: TimedAnswer, candidates: Iterable[str]) -> str | None:
        """Returns the first of the versions `candidates` whose known answer to the prompt equals `answer`; None if
        none does.

        Answers are equal if they differ by no more than rounding.
        """
        known = (version for version in candidates if (version, answer.prompt) in self._answers)
        return next((version for version in known if self.compare(answer, version).is_same), None)

    def are_distinct(self, version: str, other: str, prompts: Sequence[str]) -> bool:
        """Returns whether two versions answer each of the prompts differently enough to be told apart.

        Their known answers' log-probabilities must differ by at least MIN_DISTANCE_NATS.
        """
        return all(
            distance(self._answers[version, prompt], self._answers[other, prompt]) >= MIN_DISTANCE_NATS
            for prompt in prompts
        )

    def is_like(self, version: str, other: str, prompts: Sequence[str]) -> bool:
        """Returns whether the known answers of two versions to each prompt are the same, apart from rounding."""
        return all(compare(self._answers[version, prompt], self._answers[other, prompt]).is_same for prompt in prompts)


def compare(tokens: Sequence[Token], known: Sequence[Token]) -> Comparison:
    """Compares an answer with a known answer to the same prompt, up to the first token that differs.

    Later tokens cannot be compared, since they follow different texts. An answer without tokens counts as wrong if the
    known one has tokens.
    """
    if not tokens and known:
        return Comparison(0, 1, 0)
    distances = _distances(tokens, known)
    different = next((place for place, each in enumerate(distances) if each > TOLERANCE_NATS), None)
    if different is None:
        return Comparison(len(distances), 0, len(distances))
    return Comparison(different, len(tokens) - different, different + 1)


def distance(tokens: Sequence[Token], known: Sequence[Token]) -> float:
    """Returns the largest difference between the log-probabilities of two answers, in nats, up to the first token that
    differs.

    It is infinite if one of them has no tokens, or if tokens differ and have no log-probabilities.
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
