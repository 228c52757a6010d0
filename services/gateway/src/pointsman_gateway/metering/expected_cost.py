"""What a request would cost along a path: from its own length, and from what the path's answers have been like."""

from dataclasses import dataclass

from pointsman_gateway.domain import PICODOLLARS, Decision, Path, Request, Usage
from pointsman_gateway.metering.pricing import Pricing, answer_tokens, tokens_asked

PACE = 0.05
"""How far each answer moves its path's means: they are over about the last 20."""

MOST = 4096
"""Paths that are kept in mind: those that callers name themselves are among them."""


@dataclass(slots=True)
class Habit:
    """What a path's answers are like, on average."""

    overhead: float
    """Tokens that its prompt adds to the request's own."""
    cached: float
    """Share of the prompt that the engine had in its prefix cache."""
    completion: float
    """Tokens of its answers."""
    beside: float
    """Picodollars of searches, embeddings and hedges."""


class Habits:
    """Of all paths, each as it is configured; generations of the configuration share them."""

    def __init__(self) -> None:
        self._habits: dict[tuple[str, str], Habit] = {}

    def of(self, path: Path) -> Habit | None:
        """None before its first answer."""
        return self._habits.get((path.name, path.fingerprint))

    def learn(self, path: Path, asked: int, usage: Usage, beside: int) -> None:
        """One answer that came to its end: `asked` are the request's own tokens, `beside` is in picodollars."""
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        cached = usage.cached_tokens / prompt if prompt else 0.0
        habit = self._habits.get((path.name, path.fingerprint))
        if habit is not None:
            habit.overhead += PACE * (prompt - asked - habit.overhead)
            habit.cached += PACE * (cached - habit.cached)
            habit.completion += PACE * (completion - habit.completion)
            habit.beside += PACE * (beside - habit.beside)
        elif len(self._habits) < MOST:
            self._habits[path.name, path.fingerprint] = Habit(prompt - asked, cached, completion, beside)


class ExpectedCost:
    """Implements the router's protocol of that name."""

    def __init__(self, pricing: Pricing, habits: Habits | None = None) -> None:
        self._pricing = pricing
        self.habits = habits or Habits()

    def usd(self, path: Path, request: Request) -> float:
        """Before a path's first answer, an estimate from lengths alone. The training of adapters is not in it."""
        habit = self.habits.of(path)
        if habit is not None:
            return self._picodollars(path.model, habit, tokens_asked(request)) / PICODOLLARS
        answer = answer_tokens(request, path.sampling.max_tokens)
        parts = self._pricing.parts(path.model, Usage(tokens_asked(request), answer))
        return (sum(parts.values()) + self._pricing.searches("retrieval" in path.strategies)) / PICODOLLARS

    def beside(self, decision: Decision) -> float:
        """Dollars that its receipt will have beyond those of its path: of its adapter's training, of its embedding."""
        aim = decision.path.resolved_adapter
        training = self._pricing.training(decision.path.model, aim.version) if aim is not None else 0
        return (training + self._pricing.embeddings(decision.vector is not None)) / PICODOLLARS

    def picodollars(self, path: Path, requests: int, tokens: int) -> float | None:
        """Of so many requests that have so many tokens of their own, all together; None before its first answer."""
        habit = self.habits.of(path)
        return None if habit is None else self._picodollars(path.model, habit, tokens, requests)

    def _picodollars(self, model: str, habit: Habit, tokens: int, requests: int = 1) -> float:
        prompt = max(0.0, tokens + requests * habit.overhead)
        fresh, cached, completion = self._pricing.of_tokens(model)
        of_prompt = prompt * ((1 - habit.cached) * fresh + habit.cached * cached)
        return of_prompt + requests * (habit.completion * completion + habit.beside)
