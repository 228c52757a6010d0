"""Greedy completions by an engine, and a probe that detects that the base model's completions have changed."""

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
"""Prompts of the probe, which any language model continues with near certainty. The first is short on purpose: wrong
data that other requests left in a block of the KV cache affects a short prompt, whereas a long prompt overwrites it."""

MAX_TOKENS = 8
CERTAIN_LOGPROB = math.log(0.7)
"""A token with at least this log-probability counts as certain: it is the most likely token in any batch, since its
logit is 0.85 above the next one's, and rounding to bfloat16 moves logits by 0.1 or 0.2."""

MIN_CERTAIN_TOKENS = 3
"""A continuation is only used as the expected one if it begins with at least this many certain tokens (see
`CERTAIN_LOGPROB`)."""
ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class GreedyAnswer:
    """A model's answer at temperature 0, with its tokens and their log-probabilities."""

    token_ids: tuple[int, ...]
    """The ids of the answer's tokens, including the end-of-sequence token if this ended the answer."""
    text: str
    logprobs: tuple[float, ...]
    """The log-probability of each token, in nats; all are finite."""
    finish_reason: str
    """Why the answer ended: "stop" or "length"."""


def scored_answer(
    model: str, token_ids: Iterable[int], text: str, logprobs: Sequence[float | None], finish_reason: str
) -> GreedyAnswer:
    """Returns a `GreedyAnswer` with these values, of which `logprobs` are checked.

    Raises InvalidArgument ("cannot_answer") if there are no log-probabilities, or one is None or not finite. The
    message names `model`.
    """
    finite = tuple(p for p in logprobs if isinstance(p, int | float) and math.isfinite(p))
    if not logprobs:
        raise InvalidArgument(f"{model} answers with no tokens", code="cannot_answer")
    if len(finite) < len(logprobs):
        raise InvalidArgument(
            f"{model} gives a token no finite log-probability; its weights may contain NaN or infinity",
            code="cannot_answer",
        )
    return GreedyAnswer(tuple(token_ids), text, finite, finish_reason)


class CompletionClient(Protocol):
    """Interface of a client that requests completions from an engine; `VllmClient` and `TimedEngine` implement it.

    `complete` returns the greedy answer to a prompt (text or token ids), and `count_corrupted` the number of requests
    whose logits were NaN. Their errors are described at `VllmClient`.
    """

    async def complete(self, model: str, prompt: str | Sequence[int], max_tokens: int) -> GreedyAnswer: ...
    async def count_corrupted(self) -> int: ...


class TimedEngine:
    """Forwards calls to a `CompletionClient`, and reports the duration of each completion."""

    def __init__(self, engine: CompletionClient, observe: Callable[[str, str, float], None]) -> None:
        """`observe` is called after each completion with the model, a code and the duration in seconds.

        The code is empty after a success, the error's code after a PointsmanError, and "cancelled" after any other
        exception.
        """
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
    """The base model in the engine no longer answers as before (code "engine_poisoned"); the engine must be
    restarted.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, code="engine_poisoned", retry_after=5.0)


@dataclass(frozen=True, slots=True)
class _Expected:
    prompt: str
    token_ids: tuple[int, ...]
    """The certain tokens with which the model's continuation begins."""


class Probe:
    """Checks that the engine works: the base model must continue a prompt in the same way as at the first call of
    `start`.

    If the model is not certain of any continuation, the probe only checks that the model answers. The client `engine`
    must have a long time limit, because a busy engine answers late.
    """

    def __init__(self, engine: CompletionClient, base_model: str, count_failure: Callable[[], None]) -> None:
        """`base_model` is the name under which the engine serves the base model.

        `count_failure` is called before a check raises EngineCorrupted.
        """
        self._engine = engine
        self._base_model = base_model
        self._count_failure = count_failure
        self._expected: _Expected | None = None
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Records the base model's continuation of a prompt at the first call, then checks the engine as `check` does.

        Call it after each start of the engine, before adapters are loaded. Raises EngineCorrupted if the base model
        gives no answer, or another answer than the recorded one, and Unavailable if the engine does not answer.
        """
        if self._expected is None:
            self._expected = await self._learn()
        await self.check()

    async def check(self) -> None:
        """Raises EngineCorrupted if the base model gives another answer than the recorded one in all of `ATTEMPTS`
        attempts, or if the engine has counted requests with NaN logits.

        Raises Unavailable if the engine does not answer, or `start` was not called before.
        """
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
        """Requests the continuation of the expected prompt again. Returns how it differs from the expected one, as a
        text; empty if it is equal.
        """
        try:
            answer = await self._engine.complete(self._base_model, expected.prompt, MAX_TOKENS)
        except (InvalidArgument, NotFound) as error:
            return f"gives no answer: {error.message}"
        if answer.token_ids[: len(expected.token_ids)] != expected.token_ids:
            return f"continues {expected.prompt!r} with {answer.text!r}, as it did not before"
        return ""

    async def _learn(self) -> _Expected:
        """Returns the prompt for which the model's continuation begins with the most certain tokens, and these tokens;
        no tokens if they are fewer than `MIN_CERTAIN_TOKENS`. Raises EngineCorrupted if the engine rejects a prompt.
        """
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
    """Returns the number of tokens at the start of an answer that are certain (`CERTAIN_LOGPROB`)."""
    return next((index for index, logprob in enumerate(logprobs) if logprob < CERTAIN_LOGPROB), len(logprobs))
