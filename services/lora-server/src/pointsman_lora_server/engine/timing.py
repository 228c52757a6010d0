"""The wrapper: each answer that the lora-server itself asks of the engine is timed."""

import time
from collections.abc import Sequence
from typing import Protocol

from pointsman_servicekit.errors import PointsmanError

from pointsman_lora_server.engine.vllm_api import GreedyAnswer


class InnerEngine(Protocol):
    """`VllmApi` says what it raises."""

    async def complete(self, model: str, prompt: str | Sequence[int], tokens: int) -> GreedyAnswer: ...
    async def corrupted(self) -> int: ...


class Completions(Protocol):
    """Counts answers."""

    def completed(self, model: str, error: str, seconds: float) -> None:
        """`error` is its code, "cancelled", or empty."""
        ...


class TimedEngine:
    """Implements `Engine` around another."""

    def __init__(self, engine: InnerEngine, meter: Completions) -> None:
        self._engine = engine
        self._meter = meter

    async def complete(self, model: str, prompt: str | Sequence[int], tokens: int) -> GreedyAnswer:
        begun, failure = time.perf_counter(), "cancelled"
        try:
            answer = await self._engine.complete(model, prompt, tokens)
            failure = ""
        except PointsmanError as error:
            failure = error.code
            raise
        finally:
            self._meter.completed(model, failure, time.perf_counter() - begun)
        return answer

    async def corrupted(self) -> int:
        return await self._engine.corrupted()
