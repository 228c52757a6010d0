"""The prices of a model's tokens in picodollars: by kind, by the length of the prompt, and by service tier."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

from pointsman_gateway.config.models_file import ModelConfig
from pointsman_gateway.config.token_prices import Prices, TokenPrices
from pointsman_gateway.domain import PICODOLLARS, Request, Usage
from pointsman_gateway.metering.reservations import (
    possible_completion_kinds,
    possible_prompt_kinds,
    possible_tiers,
)

TOKENS_PER_PRICE = 1_000_000

CostParts = dict[str, int]
"""Cost in picodollars by component."""

KindPrices = Mapping[str, float]
"""Picodollars per token by kind. Whole prices, as nearly all are, are integers, so that products need no rounding."""


@dataclass(frozen=True, slots=True)
class TierPrices:
    """The prices of one service tier (such as "flex" or "priority") of a model, in picodollars per token, by the
    length of the prompt.
    """

    prices: tuple[KindPrices, ...]
    """The prices for each range of the prompt's length, the shortest one first."""
    limits: tuple[int, ...]
    """Maximum number of prompt tokens for which each of `prices` holds. There is no entry for the last one, which has
    no limit."""

    def at(self, prompt_tokens: float) -> KindPrices:
        """Returns the picodollars per token, by kind of token, for a prompt of `prompt_tokens` tokens."""
        return self.prices[bisect_left(self.limits, prompt_tokens)]


class PriceTable:
    """All prices of one model's tokens, in picodollars (1e-12 dollars): the standard ones, and those of its service
    tiers.
    """

    def __init__(self, standard: Prices, service_tiers: Mapping[str, Prices]) -> None:
        self.standard = _tier(standard)
        self._tiers = {"": self.standard, **{name: _tier(prices) for name, prices in service_tiers.items()}}

    @property
    def plain(self) -> tuple[int, int, int] | None:
        """Returns three standard prices in picodollars: of a token of the prompt, of a cached prompt token, and of an
        answer token.

        Returns None if one of them is not a whole number, or if prices depend on the length of the prompt.
        """
        first = self.standard.prices[0]
        whole = [price for kind in ("prompt", "cached", "completion") if isinstance(price := first[kind], int)]
        return (whole[0], whole[1], whole[2]) if len(whole) == 3 and not self.standard.limits else None

    def has_tier(self, service_tier: str) -> bool:
        return service_tier in self._tiers

    def missing(self, usage: Usage) -> str:
        """Returns a text that names the kinds of tokens in `usage`, or its service tier, for which this table has no
        price; empty if nothing is missing.
        """
        tier = usage.details.service_tier if usage.details is not None else ""
        if tier not in self._tiers:
            return f"service tier '{tier}'"
        prices = self._tiers[tier].at(usage.prompt_tokens)
        return ", ".join(kind for kind in usage.by_kind() if kind not in prices and kind != "reasoning")

    def highest(self, request: Request, prompt_tokens: float) -> tuple[float, float]:
        """Returns the highest price in picodollars that a prompt token, and that an answer token, of the request can
        have.

        `prompt_tokens` is the expected length of the prompt.
        """
        prices = [self._tiers[tier].at(prompt_tokens) for tier in possible_tiers(request, self._tiers.keys())]
        kinds = (possible_prompt_kinds(request), possible_completion_kinds(request))
        prompt, completion = (max(one[kind] for one in prices for kind in possible & one.keys()) for possible in kinds)
        return prompt, completion

    def parts(self, usage: Usage) -> CostParts | None:
        """Returns the cost of the usage in picodollars, by kind of token; None if a price is missing.

        Reasoning tokens without a price of their own count as tokens of the completion.
        """
        tier = self._tiers.get(usage.details.service_tier if usage.details is not None else "")
        if tier is None:
            return None
        prices, counts = tier.at(usage.prompt_tokens), usage.by_kind()
        if "reasoning" in counts and "reasoning" not in prices:
            counts["completion"] += counts.pop("reasoning")
        if not counts.keys() <= prices.keys():
            return None
        return {kind: round(tokens * prices[kind]) for kind, tokens in counts.items()}


def price_tables(models: Mapping[str, ModelConfig]) -> dict[str, PriceTable]:
    """Returns the price table of each model that has prices in the configuration, by the model's name."""
    return {
        name: PriceTable(model.usd_per_million_tokens, model.service_tiers)
        for name, model in models.items()
        if model.usd_per_million_tokens is not None
    }


def _tier(prices: Prices) -> TierPrices:
    by_length: tuple[TokenPrices, ...] = (prices, *prices.long_prompts)
    return TierPrices(tuple(map(_per_token, by_length)), tuple(longer.above for longer in prices.long_prompts))


def _per_token(prices: TokenPrices) -> KindPrices:
    return {kind: _whole(dollars * PICODOLLARS / TOKENS_PER_PRICE) for kind, dollars in prices.by_kind.items()}


def _whole(price: float) -> float:
    """Returns the price as an integer if it differs from one by less than 1e-6."""
    return round(price) if abs(price - round(price)) < 1e-6 else price
