"""Dollars by component from tokens and the price list, in whole picodollars."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pointsman_gateway.config.schema import ModelsFile
from pointsman_gateway.domain import PICODOLLARS, Decision, Message, Path, Request, Usage

PER = 1_000_000
HOUR = 3600
CHARACTERS_PER_TOKEN = 4
"""A usual figure for English; only for estimates before anything is spent."""
TYPICAL_ANSWER = 128

Parts = dict[str, int]
"""Picodollars by component."""

Prices = tuple[float, float, float]
"""Picodollars a token: of the prompt, of its cached part, of the answer."""

TrainingSeconds = Callable[[str, str], float]
"""Of a base model's adapter version; 0 where nobody knows."""


def tokens_of(messages: Iterable[Message]) -> int:
    """About as many as an engine will count."""
    return sum([len(message.content) for message in messages]) // CHARACTERS_PER_TOKEN


def tokens_asked(request: Request) -> int:
    """Of the request's own messages."""
    return request.characters // CHARACTERS_PER_TOKEN


def expected_tokens(request: Request) -> int:
    """Of prompt and answer, before a path is chosen: what its prompt adds is not known yet."""
    return tokens_asked(request) + answer_tokens(request)


def answer_tokens(request: Request, default: int | None = None) -> int:
    """Of all its choices; where it sets no bound, by the `default` one, or by what is typical."""
    most = request.sampling.max_tokens
    return (most if most is not None else default or TYPICAL_ANSWER) * choices_of(request)


def choices_of(request: Request) -> int:
    """Admission has seen that it is a number."""
    asked: int = request.sampling.extra.get("n") or 1
    return asked


def _nobody_knows(model: str, version: str) -> float:
    return 0.0


class Pricing:
    """The price list."""

    def __init__(self, models: ModelsFile, training_seconds: TrainingSeconds = _nobody_knows) -> None:
        prices = {name: model.usd_per_million_tokens for name, model in models.models.items()}
        self._of_tokens = {
            name: (of.prompt * PICODOLLARS / PER, of.cached * PICODOLLARS / PER, of.completion * PICODOLLARS / PER)
            for name, of in prices.items()
        }
        # Sums of whole prices, which nearly all are, need no rounding; that takes longer than the rest.
        self._whole = {name: whole for name, of in self._of_tokens.items() if (whole := _whole(of))}
        self._search = round(models.retrieval.usd_per_search * PICODOLLARS)
        self._embedding = round(models.retrieval.usd_per_embedding * PICODOLLARS)
        self._hit = round(models.cache.usd_per_hit * PICODOLLARS) if models.cache else None
        self._training = models.training
        self._training_seconds = training_seconds

    def of_tokens(self, model: str) -> Prices:
        return self._of_tokens[model]

    def parts(self, model: str, usage: Usage) -> Parts:
        """Of what an engine did; cached tokens are priced apart from the rest of the prompt."""
        whole = self._whole.get(model)
        if whole is not None:
            prompt, cached, completion = whole
            return {
                "prompt": (usage.prompt_tokens - usage.cached_tokens) * prompt,
                "cached": usage.cached_tokens * cached,
                "completion": usage.completion_tokens * completion,
            }
        fresh_price, cached_price, completion_price = self._of_tokens[model]
        return {
            "prompt": round((usage.prompt_tokens - usage.cached_tokens) * fresh_price),
            "cached": round(usage.cached_tokens * cached_price),
            "completion": round(usage.completion_tokens * completion_price),
        }

    def hit(self) -> Parts:
        """Of an answer that came out of the cache."""
        assert self._hit is not None  # a path that caches without a price is refused at load
        return {"cache": self._hit}

    def searches(self, number: int) -> int:
        return number * self._search

    def embeddings(self, number: int) -> int:
        """Of questions that were embedded."""
        return number * self._embedding

    def training_usd(self, model: str, version: str) -> float:
        """All that the training of an adapter's version has cost; 0 where that is not known, or not to be paid back."""
        terms = self._training
        return self._training_seconds(model, version) * terms.usd_per_hour / HOUR if terms else 0.0

    def training(self, model: str, version: str) -> int:
        """One request's share of it."""
        terms = self._training
        return round(self.training_usd(model, version) / terms.expected_requests * PICODOLLARS) if terms else 0

    def training_usd_per_hour(self, model: str, version: str) -> float:
        """Its dollars, spread over the time that the version is to serve."""
        terms = self._training
        return self.training_usd(model, version) / (terms.expected_days * 24) if terms else 0.0


def _whole(prices: Prices) -> tuple[int, int, int] | None:
    """None where one of them is no whole number; what a float is short of one is no part of a price."""
    prompt, cached, completion = map(round, prices)
    near = all(abs(price - round(price)) < 1e-6 for price in prices)
    return (prompt, cached, completion) if near else None


SMOOTHING = 0.05
"""How far each answer moves its path's means: they are over about the last 20."""

MAX_PATHS = 4096
"""Paths that are kept in mind: those that callers name themselves are among them."""


@dataclass(slots=True)
class PathMeans:
    """What a path's answers are like, on average."""

    overhead: float
    """Tokens that its prompt adds to the request's own."""
    cached: float
    """Share of the prompt that the engine had in its prefix cache."""
    completion: float
    """Tokens of its answers."""
    beside: float
    """Picodollars of searches, embeddings and hedges."""


class PathStatistics:
    """Of all paths, each as it is configured; generations of the configuration share them."""

    def __init__(self) -> None:
        self._habits: dict[tuple[str, str], PathMeans] = {}

    def of(self, path: Path) -> PathMeans | None:
        """None before its first answer."""
        return self._habits.get((path.name, path.fingerprint))

    def learn(self, path: Path, asked: int, usage: Usage, beside: int) -> None:
        """One answer that came to its end: `asked` are the request's own tokens, `beside` is in picodollars."""
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        cached = usage.cached_tokens / prompt if prompt else 0.0
        habit = self._habits.get((path.name, path.fingerprint))
        if habit is not None:
            habit.overhead += SMOOTHING * (prompt - asked - habit.overhead)
            habit.cached += SMOOTHING * (cached - habit.cached)
            habit.completion += SMOOTHING * (completion - habit.completion)
            habit.beside += SMOOTHING * (beside - habit.beside)
        elif len(self._habits) < MAX_PATHS:
            self._habits[path.name, path.fingerprint] = PathMeans(prompt - asked, cached, completion, beside)


class ExpectedCost:
    """Implements the router's protocol of that name."""

    def __init__(self, pricing: Pricing, habits: PathStatistics | None = None) -> None:
        self._pricing = pricing
        self.habits = habits or PathStatistics()

    def usd(self, path: Path, request: Request) -> float:
        """Before a path's first answer, an estimate from lengths alone. The training of adapters is not in it."""
        habit = self.habits.of(path)
        if habit is not None:
            return self._picodollars(path.model, habit, tokens_asked(request)) / PICODOLLARS
        answer = answer_tokens(request, request.sampling.default_max_tokens(path.sampling))
        parts = self._pricing.parts(path.model, Usage(tokens_asked(request), answer))
        return (sum(parts.values()) + self._pricing.searches(len(path.collections))) / PICODOLLARS

    def beside(self, decision: Decision) -> float:
        """Dollars that its receipt will have beyond those of its path: of its adapter's training, of its embedding."""
        aim = decision.path.resolved_adapter
        training = self._pricing.training(decision.path.model, aim.version) if aim is not None else 0
        return (training + self._pricing.embeddings(decision.vector is not None)) / PICODOLLARS

    def picodollars(self, path: Path, requests: int, tokens: int) -> float | None:
        """Of so many requests that have so many tokens of their own, all together; None before its first answer."""
        habit = self.habits.of(path)
        return None if habit is None else self._picodollars(path.model, habit, tokens, requests)

    def _picodollars(self, model: str, habit: PathMeans, tokens: int, requests: int = 1) -> float:
        prompt = max(0.0, tokens + requests * habit.overhead)
        fresh, cached, completion = self._pricing.of_tokens(model)
        of_prompt = prompt * ((1 - habit.cached) * fresh + habit.cached * cached)
        return of_prompt + requests * (habit.completion * completion + habit.beside)
