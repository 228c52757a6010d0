"""Counts how many requests use each model in the engine, and how many tokens the engine reads and generates for them.

A request uses a model from the time at which it looks the model up until its last generation has ended (see
`RequestUse`).
"""

import time
from contextvars import ContextVar
from typing import Any

PROMPT_WEIGHT = 0.25
"""The weight of a prompt token in the count of tokens, relative to a generated token, because the engine reads tokens
faster than it generates them."""


class ModelUsage:
    """Counts the requests to one model: `in_flight` now, and all `requests` so far. `used_at` is the time of
    `time.monotonic` at which one last started or ended. `tokens` counts generated tokens, plus prompt tokens times
    `PROMPT_WEIGHT`.
    """

    __slots__ = ("in_flight", "requests", "tokens", "used_at")

    def __init__(self) -> None:
        self.in_flight = 0
        self.requests = 0
        self.tokens = 0.0
        self.used_at = time.monotonic()

    def start_request(self) -> None:
        self.in_flight += 1
        self.requests += 1
        self.used_at = time.monotonic()

    def end_request(self) -> None:
        self.in_flight -= 1
        self.used_at = time.monotonic()

    @property
    def idle_seconds(self) -> float:
        return time.monotonic() - self.used_at


class TokenCount:
    """Adds the tokens of one generation to the `ModelUsage` of its model."""

    __slots__ = ("_cumulative", "_generated", "_model", "_read")

    def __init__(self, model: ModelUsage, cumulative: bool) -> None:
        """`cumulative` says whether each output of the generation repeats the tokens of all earlier outputs."""
        self._model, self._cumulative, self._read = model, cumulative, False
        self._generated: dict[int, int] = {}

    def add(self, output: Any) -> None:
        """Adds the new tokens of `output`: one of vLLM's RequestOutputs, or an output of a pooling model, which has no
        generated tokens. The prompt's tokens are added once.
        """
        if not self._read:
            self._read = True
            prompt = len(getattr(output, "prompt_token_ids", None) or ())
            cached = getattr(output, "num_cached_tokens", None) or 0  # in the prefix cache, so they are not read
            self._model.tokens += PROMPT_WEIGHT * max(0, prompt - cached)
        completions = getattr(output, "outputs", None)
        if not isinstance(completions, list):
            return
        for completion in completions:  # not always all that were asked for
            generated = len(completion.token_ids)
            self._model.tokens += generated
            if self._cumulative:
                self._model.tokens -= self._generated.get(completion.index, 0)
                self._generated[completion.index] = generated


class RequestUse:
    """Counts the parts of one HTTP request that are still running. When the last part has ended, the request no longer
    uses its models.

    The request itself is one part. Each generation that it starts is another part, for example one for each prompt or
    for each step of a beam search. If the client disconnects, a generation may end after the request.
    """

    __slots__ = ("_models", "_parts")

    def __init__(self) -> None:
        self._parts = 1
        self._models: list[ModelUsage] = []

    def add_model(self, model: ModelUsage) -> None:
        if model not in self._models:
            self._models.append(model)
            model.start_request()

    def start_part(self) -> None:
        self._parts += 1

    def end_part(self) -> None:
        self._parts -= 1
        if not self._parts:
            for model in self._models:
                model.end_request()


current_use: ContextVar[RequestUse | None] = ContextVar("pointsman_engine_guard_use", default=None)
"""The `RequestUse` of the HTTP request that is handled in this context. Tasks that the request starts inherit the
value."""
