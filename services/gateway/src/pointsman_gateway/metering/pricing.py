"""Dollars by component from tokens and the price list."""

from collections.abc import Mapping

from pointsman_gateway.config.schema import ModelConfig, Prices, RetrievalPrices
from pointsman_gateway.domain import Path, Request, Usage

PER = 1_000_000
CHARACTERS_PER_TOKEN = 4
"""A usual figure for English; only for estimates before anything is spent."""
TYPICAL_ANSWER = 128


class Pricing:
    """The price list."""

    def __init__(self, models: Mapping[str, ModelConfig], retrieval: RetrievalPrices) -> None:
        self._models = models
        self._retrieval = retrieval

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
        prompt_tokens = sum(len(m.content) for m in request.messages) // CHARACTERS_PER_TOKEN
        completion_tokens = request.sampling.over(path.sampling).max_tokens or TYPICAL_ANSWER
        parts = self._pricing.parts_usd(
            path.model, Usage(prompt_tokens, completion_tokens), int("retrieval" in path.strategies)
        )
        return sum(parts.values())

    def learn(self, path: Path, cost_usd: float) -> None:
        """Takes one receipt into the path's moving average (over about the last 20)."""
        before = self._means.get(path.name, cost_usd)
        self._means[path.name] = before + 0.05 * (cost_usd - before)
