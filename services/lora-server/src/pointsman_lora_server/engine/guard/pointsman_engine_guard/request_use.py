"""How many requests use each model of the engine.

A use counts from the lookup of the model until the last of the request's work is done.
"""

import time
from contextvars import ContextVar


class ModelUsage:
    """Counts the requests to one model: those in flight, all so far, and the time of the last one."""

    __slots__ = ("in_flight", "requests", "used_at")

    def __init__(self) -> None:
        self.in_flight = 0
        self.requests = 0
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


class RequestUse:
    """Counts the parts of one request that still use its models, and releases the models after the last part.

    The request itself is one part, and each generation that it starts is another (n prompts, the steps of a beam
    search, or one that must still be aborted after the client has disconnected).
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
"""The use of the request that is being answered; tasks that it starts inherit it."""
