"""Greedy completions by an engine: the answer, the client's protocol, and a wrapper that reports their duration."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pointsman_servicekit.errors import InvalidArgument, PointsmanError


@dataclass(frozen=True, slots=True)
class GreedyAnswer:
    """An answer at temperature 0, token by token."""

    token_ids: tuple[int, ...]
    """Includes the end-of-sequence token if that ended the answer."""
    text: str
    logprobs: tuple[float, ...]
    """One for each token; all are finite."""
    finish_reason: str
    """"stop" or "length"."""


def scored_answer(
    model: str, token_ids: Iterable[int], text: str, logprobs: Sequence[float | None], finish_reason: str
) -> GreedyAnswer:
    """Builds an answer; raises InvalidArgument ("cannot_answer") if a token has no finite probability or none came."""
    finite = tuple(p for p in logprobs if isinstance(p, int | float) and math.isfinite(p))
    if not finite or len(finite) < len(logprobs):
        raise InvalidArgument(f"{model} answers with no tokens that can be scored", code="cannot_answer")
    return GreedyAnswer(tuple(token_ids), text, finite, finish_reason)


class CompletionClient(Protocol):
    """Completes prompts; `VllmClient` says what the methods raise."""

    async def complete(self, model: str, prompt: str | Sequence[int], max_tokens: int) -> GreedyAnswer: ...
    async def count_corrupted(self) -> int: ...


class TimedEngine:
    """Wraps a `CompletionClient` and reports the duration of each completion."""

    def __init__(self, engine: CompletionClient, observe: Callable[[str, str, float], None]) -> None:
        """Takes `observe`, which gets the model, an error code (empty: success; or "cancelled") and the seconds."""
        self._engine = engine
        self._observe = observe

    async def complete(self, model: str, prompt: str | Sequence[int], max_tokens: int) -> GreedyAnswer:
        started, error_code = time.perf_counter(), "cancelled"
        try:
            answer = await self._engine.complete(model, prompt, max_tokens)
            error_code = ""
        except PointsmanError as error:
            error_code = error.code
            raise
        finally:
            self._observe(model, error_code, time.perf_counter() - started)
        return answer

    async def count_corrupted(self) -> int:
        return await self._engine.count_corrupted()
