"""Counts how many requests use each model of the engine, and how many tokens it reads and generates for them.

A request uses a model from when it looks the model up until the last of its parts has ended (see `RequestUse`).
"""

import time
from contextvars import ContextVar
from typing import Any

PROMPT_WEIGHT = 0.25
"""How many generated tokens a token of a prompt counts for: reading it takes the engine that much less time."""


class ModelUsage:
    """Counts the requests to one model: those in flight, all so far, and when one last started or ended
    (`time.monotonic`). Also counts tokens; one of a prompt counts `PROMPT_WEIGHT`.
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
    """Adds the tokens of one generation to the usage of its model, output by output."""

    __slots__ = ("_cumulative", "_generated", "_model", "_read")

    def __init__(self, model: ModelUsage, cumulative: bool) -> None:
        """Takes whether each output repeats the tokens of the outputs before."""
        self._model, self._cumulative, self._read = model, cumulative, False
        self._generated: dict[int, int] = {}

    def add(self, output: Any) -> None:
        """Takes one of vLLM's RequestOutputs, or an output of a pooling model, which has no generated tokens."""
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
    """Counts the parts of one request that are still running. After the last one, the request no longer uses its
    models.

    The request itself is one part. Each generation that it starts is another, for example for each of several prompts
    or each step of a beam search. If the client disconnects, a generation may end after the request.
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
"""The `RequestUse` of the HTTP request that is being handled in this context; tasks that it starts inherit it."""
