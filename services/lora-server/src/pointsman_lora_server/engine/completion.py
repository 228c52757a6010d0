"""Greedy completions by an engine, and probes that compare the base model's with known ones to detect wrong answers."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pointsman_servicekit.errors import InvalidArgument, NotFound, PointsmanError, Unavailable

log = logging.getLogger(__name__)

PROMPTS = ("1, 2, 3,", "A, B, C, D, E, F, G,", "one, two, three, four, five,")
"""Any language model continues these with certainty. The first is short on purpose: data that others left in a block of
the KV cache affects a short prompt and is overwritten by a long one."""

MAX_TOKENS = 8
CERTAIN_LOGPROB = math.log(0.7)
"""A token that is at least this likely is the most likely one in any batch: its logit is 0.85 above the next one's, and
bfloat16 moves logits by 0.1 or 0.2."""

MIN_CERTAIN_TOKENS = 3
"""Number of certain tokens that a continuation needs to be used as the expected one."""
ATTEMPTS = 3


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


class EngineCorrupted(Unavailable):
    """The engine answers, but wrongly; it must be restarted."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="engine_poisoned", retry_after=5.0)


@dataclass(frozen=True, slots=True)
class _Expected:
    prompt: str
    token_ids: tuple[int, ...]
    """The leading certain tokens of the continuation."""


class Probe:
    """Compares the base model's continuation with that of the engine's first run.

    The client must wait long for an answer: a busy engine is not a corrupted one.
    """

    def __init__(self, engine: CompletionClient, base_model: str, count_failure: Callable[[], None]) -> None:
        """Takes the base model's name at the engine, and `count_failure`, which is called for each failed probe."""
        self._engine = engine
        self._base_model = base_model
        self._count_failure = count_failure
        self._expected: _Expected | None = None
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Learns the expected continuation or compares with it; call it after each start, before adapters are loaded.

        The first run of the engine defines the expected continuation and must repeat it; each later run must produce
        the same. Raises EngineCorrupted if it does not, Unavailable if it does not answer.
        """
        if self._expected is None:
            self._expected = await self._learn()
        await self.check()

    async def check(self) -> None:
        """Raises EngineCorrupted if the base model answers other than expected, Unavailable if it does not answer."""
        expected = self._expected
        if expected is None:
            raise Unavailable("the engine has not been probed yet", code="engine_not_ready", retry_after=5.0)
        async with self._lock:
            for left in reversed(range(ATTEMPTS)):
                problem = await self._problem(expected)
                if not problem:
                    break
                log.warning("the base model %s; %d attempts are left", problem, left)
            # NaN values stay in the KV cache and corrupt the next request that gets that block, which may not be a
            # probe.
            if not problem and (corrupted := await self._engine.count_corrupted()):
                problem = f"shares its cache with NaN values: {corrupted} requests were answered from them"
        if problem:
            self._count_failure()
            raise EngineCorrupted(f"the base model {problem}")

    async def _problem(self, expected: _Expected) -> str:
        """Asks the base model for a known answer again, and returns how it differs; empty if it is the same."""
        try:
            answer = await self._engine.complete(self._base_model, expected.prompt, MAX_TOKENS)
        except (InvalidArgument, NotFound) as error:
            return f"gives no answer: {error.message}"
        if answer.token_ids[: len(expected.token_ids)] != expected.token_ids:
            return f"continues {expected.prompt!r} with {answer.text!r}, as it did not before"
        return ""

    async def _learn(self) -> _Expected:
        """Chooses the prompt that the model continues with certainty for the most tokens."""
        candidates = []
        for prompt in PROMPTS:
            try:
                answer = await self._engine.complete(self._base_model, prompt, MAX_TOKENS)
            except (InvalidArgument, NotFound) as error:
                raise EngineCorrupted(f"the base model gives no answer: {error.message}") from error
            candidates.append(_Expected(prompt, answer.token_ids[: _count_certain(answer.logprobs)]))
            if len(candidates[-1].token_ids) >= MAX_TOKENS:
                break
        best = max(candidates, key=lambda each: len(each.token_ids))
        if len(best.token_ids) >= MIN_CERTAIN_TOKENS:
            return best
        log.warning("the base model is not certain of any continuation: probes only check that it answers")
        return _Expected(best.prompt, ())


def _count_certain(logprobs: Sequence[float]) -> int:
    """Returns how many leading tokens are certain, by their log-probabilities."""
    return next((index for index, logprob in enumerate(logprobs) if logprob < CERTAIN_LOGPROB), len(logprobs))
