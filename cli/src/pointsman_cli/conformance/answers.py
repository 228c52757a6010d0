"""Answers of an engine, token by token, and the known answers with which they are compared.

With log-probabilities, an answer is compared with a known one by the distribution at each position, up to the first
token that differs: rounding changes log-probabilities by a few tenths of a nat, other weights by several nats. Without
them, only the texts of the tokens are compared.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

TOLERANCE_NATS = 1.5
"""The largest change of a log-probability that counts as rounding."""
MIN_DISTANCE_NATS = 3.0
"""How far two versions must differ at the first token of each prompt, to be told apart."""

BASE = "base"
"""The name of the base model among the versions."""


@dataclass(frozen=True, slots=True)
class Token:
    text: str
    logprobs: Mapping[str, float]
    """Log-probabilities of the likeliest tokens at this position, in nats; empty if the engine reports none."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request, and its times on the clock of `time.monotonic`."""

    model: str
    """The model that was requested."""
    prompt: str
    tokens: tuple[Token, ...]
    started: float
    first_token: float
    ended: float
    error: str = ""
    """Why it failed; empty if it is complete."""
    status: int = 0
    """The HTTP status; 0 if there was no response."""
    is_overload: bool = False
    """Whether the engine asked to come again later, by status 429 or 503 with Retry-After."""

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)


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

    def add(self, version: str, answer: Answer) -> None:
        self._answers[version, answer.prompt] = answer.tokens

    def compare(self, answer: Answer, version: str) -> Comparison:
        """Compares an answer with the version's known one to the same prompt, as far as both go."""
        return compare(answer.tokens, self._answers[version, answer.prompt])

    def version_of(self, answer: Answer, candidates: Iterable[str]) -> str | None:
        """Returns the first of the candidates whose known answer this is; None if there is none."""
        known = (version for version in candidates if (version, answer.prompt) in self._answers)
        return next((version for version in known if self.compare(answer, version).is_same), None)

    def are_distinct(self, version: str, other: str, prompts: Sequence[str]) -> bool:
        """Returns whether the first tokens of two versions differ clearly on each prompt."""
        return all(
            distance(self._answers[version, prompt][:1], self._answers[other, prompt][:1]) >= MIN_DISTANCE_NATS
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
    position = 0
    for position, (token, other) in enumerate(zip(tokens, known, strict=False), 1):
        if _token_distance(token, other) > TOLERANCE_NATS:
            return Comparison(position - 1, len(tokens) - position + 1, position)
        if token.text != other.text:
            break
    return Comparison(position, 0, position)


def distance(tokens: Sequence[Token], known: Sequence[Token]) -> float:
    """Returns the largest difference of log-probabilities, in nats, at the positions that both have."""
    return max(map(_token_distance, tokens, known), default=math.inf)


def _token_distance(token: Token, other: Token) -> float:
    """Returns the largest difference, in nats, over the tokens that are among the likeliest of both; infinity if there
    are none, or if the texts differ and the engine reports no log-probabilities.
    """
    if not token.logprobs or not other.logprobs:
        return 0.0 if token.text == other.text else math.inf
    shared = token.logprobs.keys() & other.logprobs.keys()
    if token.text not in other.logprobs or other.text not in token.logprobs:
        return math.inf
    return max(abs(token.logprobs[each] - other.logprobs[each]) for each in shared)
