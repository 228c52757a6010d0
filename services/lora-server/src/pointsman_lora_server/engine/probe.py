"""Asks the base model what it must know, so that an engine that answers wrongly is found before its users find it."""

import asyncio
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pointsman_servicekit.errors import InvalidArgument, NotFound, Unavailable

log = logging.getLogger(__name__)

PROMPTS = ("1, 2, 3,", "A, B, C, D, E, F, G,", "one, two, three, four, five,")
"""Any language model knows how they go on, and is sure of it. The first is short: what others left in a block of the
cache shows behind a short text, and is written over by a long one."""

TOKENS = 8
CLEAR = math.log(0.7)
"""A token that is at least as likely stays the first one in whatever batch it is computed: its logit is 0.85 above any
other's, and bfloat16 moves logits by a tenth or two."""

FEWEST = 3  # clear tokens that make a text to be known by
TRIES = 3


class Poisoned(Unavailable):
    """The engine answers, and wrongly: it must be started again."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="engine_poisoned", retry_after=5.0)


class Answer(Protocol):
    @property
    def token_ids(self) -> tuple[int, ...]: ...
    @property
    def text(self) -> str: ...
    @property
    def logprobs(self) -> tuple[float, ...]: ...


class ProbedEngine(Protocol):
    """`VllmApi` says what it raises; it waits long for an answer: a busy engine is no poisoned one."""

    async def complete(self, model: str, prompt: str | Sequence[int], tokens: int) -> Answer: ...
    async def corrupted(self) -> int: ...


class ProbeMeter(Protocol):
    def probe_failed(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Known:
    prompt: str
    token_ids: tuple[int, ...]
    """Those that are clear, up to the first one that is not."""


class Probe:
    def __init__(self, engine: ProbedEngine, base_model: str, meter: ProbeMeter) -> None:
        """`base_model` is the name that the engine serves it under."""
        self._engine = engine
        self._base_model = base_model
        self._meter = meter
        self._known: _Known | None = None
        self._one_at_a_time = asyncio.Lock()

    async def begin(self) -> None:
        """At the beginning of a life of the engine, before it is given any adapter.

        The first life says what is known, and must say it twice; each later one must say the same.
        Raises Poisoned, Unavailable.
        """
        if self._known is None:
            self._known = await self._learn()
        await self.check()

    async def check(self) -> None:
        """Returns where the base model answers as it did. Raises Poisoned, Unavailable (nothing is known of it)."""
        known = self._known
        if known is None:
            raise Unavailable("the engine has not been asked yet", code="engine_not_ready", retry_after=5.0)
        async with self._one_at_a_time:
            for left in reversed(range(TRIES)):
                wrong = await self._wrong(known)
                if not wrong:
                    break
                log.warning("the base model %s; %d tries are left", wrong, left)
            # What is no number stays in the cache, and spoils whoever gets that block of it next: perhaps not us.
            if not wrong and (corrupted := await self._engine.corrupted()):
                wrong = f"shares its cache with what is no number: {corrupted} requests were answered from that"
        if wrong:
            self._meter.probe_failed()
            raise Poisoned(f"the base model {wrong}")

    async def _wrong(self, known: _Known) -> str:
        """What is; empty where nothing is."""
        try:
            answer = await self._engine.complete(self._base_model, known.prompt, TOKENS)
        except (InvalidArgument, NotFound) as error:
            return f"gives no answer: {error.message}"
        if answer.token_ids[: len(known.token_ids)] != known.token_ids:
            return f"goes on with {answer.text!r} after {known.prompt!r}, as it did not before"
        return ""

    async def _learn(self) -> _Known:
        """With the prompt that it is surest of."""
        known = []
        for prompt in PROMPTS:
            try:
                answer = await self._engine.complete(self._base_model, prompt, TOKENS)
            except (InvalidArgument, NotFound) as error:
                raise Poisoned(f"the base model gives no answer: {error.message}") from error
            known.append(_Known(prompt, answer.token_ids[: _clear(answer.logprobs)]))
            if len(known[-1].token_ids) >= TOKENS:
                break
        surest = max(known, key=lambda each: len(each.token_ids))
        if len(surest.token_ids) >= FEWEST:
            return surest
        log.warning("the base model is sure of nothing: it is only seen whether it answers at all")
        return _Known(surest.prompt, ())


def _clear(logprobs: Sequence[float]) -> int:
    """How many at the beginning are."""
    return next((at for at, logprob in enumerate(logprobs) if logprob < CLEAR), len(logprobs))
