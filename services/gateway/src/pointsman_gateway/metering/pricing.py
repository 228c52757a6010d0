"""Dollars by component from tokens and the price list."""

from collections.abc import Iterable

from pointsman_gateway.config.schema import ModelsFile, Prices
from pointsman_gateway.domain import Message, Path, Request, Usage

PER = 1_000_000
CHARACTERS_PER_TOKEN = 4
"""A usual figure for English; only for estimates before anything is spent."""
TYPICAL_ANSWER = 128


def tokens_of(messages: Iterable[Message]) -> int:
    """About as many as an engine will count."""
    return sum([len(message.content) for message in messages]) // CHARACTERS_PER_TOKEN


def expected_tokens(request: Request) -> int:
    """Of prompt and answer, before a path is chosen: what its prompt adds is not known yet."""
    return tokens_of(request.messages) + (request.sampling.max_tokens or TYPICAL_ANSWER) * _choices(request)


def _choices(request: Request) -> int:
    asked = request.sampling.extra.get("n")
    return asked if isinstance(asked, int) and 1 <= asked <= 128 else 1


class Pricing:
    """The price list."""

    def __init__(self, models: ModelsFile) -> None:
        self._models = models.models
        self._retrieval = models.retrieval
        self._cache = models.cache

    def parts_usd(self, model: str, usage: Usage, searches: int) -> dict[str, float]:
        """Dollars by component; cached tokens are priced apart from the rest of the prompt."""
        prices = self._prices(model)
        parts = {
            "prompt": (usage.prompt_tokens - usage.cached_tokens) * prices.prompt / PER,
            "cached": usage.cached_tokens * prices.cached / PER,
            "completion": usage.completion_tokens * prices.completion / PER,
        }
        if searches:
            parts["retrieval"] = searches * self._retrieval.search
        return parts

    def hit_usd(self, searches: int) -> dict[str, float]:
        """Of an answer that came out of the cache."""
        assert self._cache is not None  # a path that caches without a price is refused at load
        parts = {"cache": self._cache.hit}
        if searches:
            parts["retrieval"] = searches * self._retrieval.search
        return parts

    def _prices(self, model: str) -> Prices:
        return self._models[model].prices


class ExpectedCost:
    """What a path's answers have cost on average so far; before the first, an estimate from lengths."""

    def __init__(self, pricing: Pricing) -> None:
        self._pricing = pricing
        self._means: dict[str, float] = {}

    def usd(self, path: Path, request: Request) -> float:
        """Implements the router's `ExpectedCost`."""
        if path.name in self._means:
            return self._means[path.name]
        answer = request.sampling.max_tokens or path.sampling.max_tokens or TYPICAL_ANSWER
        usage = Usage(tokens_of(request.messages), answer * _choices(request))
        parts = self._pricing.parts_usd(path.model, usage, int("retrieval" in path.strategies))
        return sum(parts.values())

    def learn(self, path: Path, cost_usd: float) -> None:
        """Takes one receipt into the path's moving average (over about the last 20)."""
        before = self._means.get(path.name, cost_usd)
        self._means[path.name] = before + 0.05 * (cost_usd - before)
