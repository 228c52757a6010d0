"""Builds the objects that policies and prompt strategies need, without a gateway."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pointsman_gateway.domain import AUTO, Message, Request, Vector
from pointsman_gateway.extensions import Candidate, Embed, Example, Found, Search, StrategyContext, Templates
from pointsman_gateway.extensions.policy import hash_to_unit_interval
from pointsman_gateway.prompts.strategies import (
    FewShot,
    FewShotOptions,
    Instruction,
    InstructionOptions,
    Retrieval,
    RetrievalOptions,
)


@dataclass
class Situation:
    """Implements `PolicyContext` with values that a test sets."""

    known: Sequence[Candidate] = ()
    away: Mapping[str, str] = field(default_factory=dict)
    at: float | None = None
    """The request's position in the unit interval; None: computed from `user`, as in the gateway."""
    user: str = ""
    task: str = "task"
    request: Request = field(default_factory=lambda: Request(AUTO, (Message("user", "x"),)))
    vector: Vector | None = None
    task_probabilities: Mapping[str, float] = field(default_factory=dict)

    def candidates(self, paths: Sequence[str]) -> list[Candidate]:
        return list(self.known)

    def unavailable(self, paths: Sequence[str]) -> Mapping[str, str]:
        return self.away

    def position(self, purpose: str = "") -> float:
        if self.at is not None:
            return self.at
        return hash_to_unit_interval(f"{purpose} {self.task} {self.user}" if purpose else self.user)


class FindsNothing:
    """Implements `Search` without results."""

    async def search(self, *asked: Any) -> Found:
        return Found((), False)


def strategy_context(
    templates: Templates,
    search: Search | None = None,
    embed: Embed | None = None,
    examples: Sequence[Example] = (),
    vectors: NDArray[np.float32] | None = None,
    task: str = "task",
) -> StrategyContext:
    known = np.zeros((len(examples), 1), np.float32) if vectors is None else vectors
    return StrategyContext(templates, search or FindsNothing(), embed, {task: examples}, {task: known})


def instruction(templates: Templates, prompt: str) -> Instruction:
    return Instruction(InstructionOptions(prompt=prompt), strategy_context(templates))


def retrieval(templates: Templates, search: Search, collection: str = "c", **options: Any) -> Retrieval:
    asked = RetrievalOptions(collection=collection, prompt="passages.txt", **{"top_k": 1, **options})
    return Retrieval(asked, strategy_context(templates, search))


def few_shot(
    templates: Templates,
    examples: Sequence[Example],
    vectors: NDArray[np.float32],
    count: int,
    embed: Embed | None,
    prompt: str = "",
) -> FewShot:
    """Returns a few-shot strategy. Without `embed`, it always uses the first examples."""
    options = FewShotOptions(task="task", count=count, selection="knn" if embed else "fixed", prompt=prompt)
    return FewShot(options, strategy_context(templates, None, embed, examples, vectors))
