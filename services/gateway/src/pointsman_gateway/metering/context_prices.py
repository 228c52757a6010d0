"""Estimates the cost of moving a conversation to another path, whose engine has to read all earlier tokens again."""

from collections.abc import Mapping

from pointsman_gateway.conversations.price import CACHE_SECONDS, Change, ConversationState, PathPrices, change_of
from pointsman_gateway.domain import PICODOLLARS, Path, Request
from pointsman_gateway.domain.conversation import ConversationStep
from pointsman_gateway.domain.value import CHARACTERS_PER_TOKEN
from pointsman_gateway.metering.expected_cost import CostEstimator
from pointsman_gateway.metering.pricing import SECONDS_PER_HOUR, Pricing
from pointsman_gateway.metering.token_estimates import estimate_answer_tokens, estimate_own_tokens

PREFILL_SECONDS_PER_TOKEN = 1 / 4000
"""Seconds for each prompt token that are assumed for a path before its first answer."""


class ContextPricing:
    """Estimates the dollars that conversations pay and save by a change of path, at the prices of one configuration;
    implements the router's `ChangePrices`.
    """

    def __init__(self, pricing: Pricing, costs: CostEstimator, usd_per_hour: Mapping[str, float]) -> None:
        """Takes `usd_per_hour`: the dollars per hour of one engine of each model that has hourly paid engines."""
        self._pricing = pricing
        self._costs = costs
        self._usd_per_second = {model: usd / SECONDS_PER_HOUR for model, usd in usd_per_hour.items()}

    def change(self, kept: Path, other: Path, request: Request, step: ConversationStep) -> Change | None:
        """Returns the dollars that the conversation would pay and save by moving from the path `kept` to `other`.

        `request` is the conversation's present request, and `step` describes its earlier and expected requests. Returns
        None if the price of one of the two models is unknown.
        """
        prices, other_prices = self._prices_of(kept, request), self._prices_of(other, request)
        if prices is None or other_prices is None:
            return None
        known = step.known_characters(other.name, CACHE_SECONDS) // CHARACTERS_PER_TOKEN
        tokens = estimate_own_tokens(request)
        new_tokens = max(0, tokens - step.kept.characters // CHARACTERS_PER_TOKEN)
        state = ConversationState(tokens, new_tokens, step.requests_left, step.idle_seconds, known)
        return change_of(prices, other_prices, state)

    def _prices_of(self, path: Path, request: Request) -> PathPrices | None:
        prices = self._pricing.token_prices(path.model)
        if prices is None:
            return None
        means = self._costs.statistics.of(path)
        added = means.added_tokens if means is not None else 0
        prices = self._pricing.prices_at(path.model, prices, estimate_own_tokens(request) + added)
        prompt, cached, completion = (price / PICODOLLARS for price in prices)
        per_second = self._usd_per_second.get(path.model)
        reading = max(0.0, prompt - cached)
        if per_second is not None:
            measured = means.prefill_seconds_per_token if means is not None else None
            reading = per_second * (PREFILL_SECONDS_PER_TOKEN if measured is None else measured)
        # An embedding of the query costs the same on both paths, so it does not matter whether there is one.
        other = self._costs.besides_tokens(path, is_embedded=True) / PICODOLLARS
        if means is not None:
            return PathPrices(prompt, cached, reading, means.completion_tokens * completion + other, means.added_tokens)
        tokens = estimate_answer_tokens(request, request.sampling.default_max_tokens(path.sampling))
        return PathPrices(prompt, cached, reading, tokens * completion + other)
