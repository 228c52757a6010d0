"""Prices answers by their tokens, in whole picodollars (1e-12 dollars)."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from datetime import time as time_of_day
from typing import Any

from pointsman_gateway.config.models_file import ModelsFile
from pointsman_gateway.domain import PICODOLLARS, UNPRICED, Message, Request, Usage
from pointsman_gateway.domain.usage import TOKEN_KINDS
from pointsman_gateway.metering.price_table import CostParts, KindPrices, price_tables
from pointsman_gateway.metering.reservations import requested_tier

SECONDS_PER_HOUR = 3600

TOKEN_COMPONENTS = frozenset(("prompt", "cached", "completion", *TOKEN_KINDS))
"""The cost components of tokens; each has the name of its kind of tokens."""

TokenPrices = tuple[float, float, float]
"""Picodollars per token of the prompt, of its cached part, and of the answer."""

TrainingSeconds = Callable[[str, str], float]
"""Returns the seconds that the training of an adapter took, by base model and version; 0 if unknown."""


def image_parts(message: Message) -> list[Mapping[str, Any]]:
    return [part for part in message.extra.get("content", ()) if part["type"] == "image_url"]


def _unknown_duration(model: str, version: str) -> float:
    return 0.0


class Pricing:
    """The prices of a configuration's models and services, in picodollars, as they are on the present day (UTC)."""

    def __init__(
        self,
        models: ModelsFile,
        training_seconds: TrainingSeconds = _unknown_duration,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Takes the `clock`, which returns Unix seconds."""
        self._clock = clock
        self._models = models.models
        self._windows = {name: model.context_window for name, model in models.models.items()}
        retrieval = models.retrieval
        self._search = round(retrieval.usd_per_search * PICODOLLARS) if retrieval else 0
        self._embedding = round(retrieval.usd_per_embedding * PICODOLLARS) if retrieval else 0
        self._cache_hit = round(models.cache.usd_per_hit * PICODOLLARS) if models.cache else None
        self._training = models.training
        self._training_seconds = training_seconds
        self._set_prices()

    def _set_prices(self) -> None:
        """Sets the prices of the present day, and when they change."""
        today = datetime.fromtimestamp(self._clock(), UTC).date()
        models = {name: model.priced_on(today) for name, model in self._models.items()}
        days = [change.starting for model in self._models.values() for change in model.price_changes]
        following = min([day for day in days if day > today], default=None)
        self._change = None if following is None else datetime.combine(following, time_of_day(), UTC).timestamp()
        """The Unix seconds at which prices change; None if they do not."""
        self._tables = price_tables(models)
        self._plain = {name: plain for name, table in self._tables.items() if (plain := table.plain) is not None}
        """`PriceTable.plain` of each model that has it, which makes pricing faster."""
        self._token_prices = {name: _plain_prices(table.standard.prices[0]) for name, table in self._tables.items()}
        self._depends_on_length = any(table.standard.limits for table in self._tables.values())
        self._image_prices = {
            name: round(model.usd_per_image * PICODOLLARS) for name, model in models.items() if model.usd_per_image
        }
        self._request_prices = {
            name: round(model.usd_per_request * PICODOLLARS) for name, model in models.items() if model.usd_per_request
        }
        self._tool_prices = {
            name: round(model.usd_per_tool_request * PICODOLLARS)
            for name, model in models.items()
            if model.usd_per_tool_request is not None
        }
        self.charges_answers = bool(self._image_prices or self._request_prices)
        """Whether answers of a model may cost more than their tokens."""

    def context_window(self, model: str) -> int:
        """Returns how many tokens a prompt of the model and its answer may have together."""
        return self._windows[model]

    def token_prices(self, model: str) -> TokenPrices | None:
        """Returns the standard prices of a model's prompt, cached and completion tokens in picodollars, for short
        prompts; None if they are unknown.
        """
        if self._change is not None and self._clock() >= self._change:
            self._set_prices()
        return self._token_prices.get(model)

    def prices_at(self, model: str, prices: TokenPrices, prompt_tokens: float) -> TokenPrices:
        """Returns the prices of a model's prompt, cached and completion tokens in picodollars, for a prompt of
        `prompt_tokens` tokens.

        `prices` is the result of `token_prices` for the model, and is returned unchanged if the price does not depend
        on the length of the prompt.
        """
        if not self._depends_on_length:
            return prices
        return _plain_prices(self._tables[model].standard.at(prompt_tokens))

    def highest_prices(self, model: str, request: Request, prompt_tokens: float) -> tuple[float, float] | None:
        """Returns the highest prices that a request to `model` can cost, as a pair in picodollars: for each token of
        its prompt, and for each token of its answer.

        Returns None if the model's prices are unknown. `prompt_tokens` is the expected length of the prompt, since
        prices can depend on it.
        """
        if self._change is not None and self._clock() >= self._change:
            self._set_prices()
        table = self._tables.get(model)
        return None if table is None else table.highest(request, prompt_tokens)

    def tier_of(self, model: str, request: Request) -> str:
        """Returns the service tier that the request asks for; empty if the model has no prices of that tier."""
        table, tier = self._tables.get(model), requested_tier(request)
        return tier if tier and table is not None and table.has_tier(tier) else ""

    def parts(self, model: str, usage: Usage) -> CostParts:
        """Returns the cost of a usage in picodollars by component: each kind of token and, as "tool", the requests to
        tools that the provider ran.

        If a price is unknown, the result is {UNPRICED: 0}. If the usage has neither tokens nor tool requests, the
        result is empty.
        """
        if self._change is not None and self._clock() >= self._change:
            self._set_prices()
        plain = self._plain.get(model)
        if plain is not None and usage.details is None:
            prompt, cached, completion = plain
            return {
                "prompt": (usage.prompt_tokens - usage.cached_tokens) * prompt,
                "cached": usage.cached_tokens * cached,
                "completion": usage.completion_tokens * completion,
            }
        table = self._tables.get(model)
        parts = table.parts(usage) if table is not None else None
        tools = usage.details.tool_requests if usage.details is not None else 0
        if parts is None or (tools and model not in self._tool_prices):
            return {UNPRICED: 0} if usage.prompt_tokens or usage.completion_tokens or tools else {}
        if tools:
            parts["tool"] = tools * self._tool_prices[model]
        return parts

    def missing_price(self, model: str, usage: Usage) -> str:
        """Returns a sentence that names the price which the usage needs and the model lacks; empty if no price is
        missing, or if the model has no prices at all.
        """
        table = self._tables.get(model)
        missing = table.missing(usage) if table is not None else ""
        if not missing and table is not None and usage.details is not None and usage.details.tool_requests:
            missing = "" if model in self._tool_prices else "tool requests (usd_per_tool_request)"
        return f"cost unknown: model '{model}' lacks a price of {missing}" if missing else ""

    def surcharge(self, model: str, usage: Usage, parts: CostParts) -> int:
        """Returns by how many picodollars the tokens of an answer cost more than the same number of plain (text,
        uncached, standard tier) tokens would.

        `parts` has the cost of the tokens by kind. The result is negative if they cost less, and 0 if a price is
        unknown.
        """
        if usage.details is None or UNPRICED in parts:
            return 0
        tokens = sum([amount for kind, amount in parts.items() if kind in TOKEN_COMPONENTS])
        return tokens - sum(self.parts(model, replace(usage, details=None)).values())

    def add_charges(self, parts: CostParts, model: str, messages: Iterable[Message]) -> None:
        """Adds to `parts` the model's charges besides tokens, in picodollars: "request" for the request itself, and
        "image" for the images in `messages`.

        A charge of 0 is left out.
        """
        if images := self.images(model, messages):
            parts["image"] = images
        if request := self.request(model):
            parts["request"] = request

    def request(self, model: str) -> int:
        return self._request_prices.get(model, 0)

    def images(self, model: str, messages: Iterable[Message]) -> int:
        """Returns the picodollars that the model charges for the images in a prompt in addition to its tokens."""
        price = self._image_prices.get(model, 0)
        return price * sum([len(image_parts(message)) for message in messages]) if price else 0

    def cache_hit(self) -> CostParts:
        assert self._cache_hit is not None  # a configuration with a cache and without this price is rejected
        return {"cache": self._cache_hit}

    def searches(self, count: int) -> int:
        return count * self._search

    def embeddings(self, count: int) -> int:
        """Returns the picodollars of embedding `count` queries."""
        return count * self._embedding

    def training_usd(self, model: str, version: str) -> float:
        """Returns the dollars that the training of an adapter version cost; 0 if the training's duration is unknown or
        training has no price.
        """
        terms = self._training
        if terms is None:
            return 0.0
        return self._training_seconds(model, version) * terms.usd_per_hour / SECONDS_PER_HOUR

    def training(self, model: str, version: str) -> int:
        """Returns the part of an adapter version's training cost that one request pays, in picodollars; 0 if the cost
        is unknown.
        """
        terms = self._training
        return round(self.training_usd(model, version) / terms.expected_requests * PICODOLLARS) if terms else 0

    def training_usd_per_hour(self, model: str, version: str) -> float:
        """Returns the training cost of an adapter version in dollars per hour of its expected use; 0 if the cost is
        unknown.
        """
        terms = self._training
        return self.training_usd(model, version) / (terms.expected_days * 24) if terms else 0.0


def _plain_prices(prices: KindPrices) -> TokenPrices:
    return prices["prompt"], prices["cached"], prices["completion"]
