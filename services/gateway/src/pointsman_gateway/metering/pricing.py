"""Prices requests: after an answer by its tokens, in whole picodollars (1e-12 dollars), and before it by the answers
that its path has given.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pointsman_gateway.config.models_file import ModelsFile
from pointsman_gateway.domain import PICODOLLARS, UNPRICED, Decision, Message, Path, Request, Usage
from pointsman_gateway.domain.request import NO_MEDIA
from pointsman_gateway.domain.usage import TOKEN_KINDS
from pointsman_gateway.metering.price_table import CostParts, KindPrices, price_tables
from pointsman_gateway.metering.token_estimates import estimate_answer_tokens, estimate_own_tokens

SECONDS_PER_HOUR = 3600

TOKEN_COMPONENTS = frozenset(("prompt", "cached", "completion", *TOKEN_KINDS))
"""The cost components of tokens; each has the name of its kind of tokens."""

TokenPrices = tuple[float, float, float]
"""Picodollars per token of the prompt, of its cached part, and of the answer."""

TrainingSeconds = Callable[[str, str], float]
"""Returns the seconds that the training of an adapter took, by base model and version; 0 if unknown."""

SMOOTHING = 0.05
"""Weight of a new answer in its path's exponential moving averages: they cover about the last 20 answers."""

MAX_PATHS = 4096
"""The most configured paths, and the most paths that callers name, whose means are kept in memory. Beyond it the path
that has been without an answer for longest is dropped."""


def image_parts(message: Message) -> list[Mapping[str, Any]]:
    return [part for part in message.extra.get("content", ()) if part["type"] == "image_url"]


def _unknown_duration(model: str, version: str) -> float:
    return 0.0


class Pricing:
    """The price list of a configuration, in picodollars."""

    def __init__(self, models: ModelsFile, training_seconds: TrainingSeconds = _unknown_duration) -> None:
        self._tables = price_tables(models.models)
        self._plain = {name: plain for name, table in self._tables.items() if (plain := table.plain) is not None}
        """`PriceTable.plain` of each model that has it, which makes pricing faster."""
        self._token_prices = {name: _plain_prices(table.standard.prices[0]) for name, table in self._tables.items()}
        self._depends_on_length = any(table.standard.limits for table in self._tables.values())
        self._image_prices = {
            name: round(model.usd_per_image * PICODOLLARS)
            for name, model in models.models.items()
            if model.usd_per_image
        }
        self._request_prices = {
            name: round(model.usd_per_request * PICODOLLARS)
            for name, model in models.models.items()
            if model.usd_per_request
        }
        self.charges_answers = bool(self._image_prices or self._request_prices)
        """Whether answers of a model may cost more than their tokens."""
        self._windows = {name: model.context_window for name, model in models.models.items()}
        retrieval = models.retrieval
        self._search = round(retrieval.usd_per_search * PICODOLLARS) if retrieval else 0
        self._embedding = round(retrieval.usd_per_embedding * PICODOLLARS) if retrieval else 0
        self._cache_hit = round(models.cache.usd_per_hit * PICODOLLARS) if models.cache else None
        self._training = models.training
        self._training_seconds = training_seconds

    def context_window(self, model: str) -> int:
        """Returns how many tokens a prompt of the model and its answer may have together."""
        return self._windows[model]

    def token_prices(self, model: str) -> TokenPrices | None:
        """Returns the prices of a model's plain tokens, for short prompts; None if they are unknown."""
        return self._token_prices.get(model)

    def prices_at(self, model: str, prices: TokenPrices, prompt_tokens: float) -> TokenPrices:
        """Returns the prices of a model's plain tokens for a prompt of that length; `prices` are the model's
        `token_prices`.
        """
        if not self._depends_on_length:
            return prices
        return _plain_prices(self._tables[model].standard.at(prompt_tokens))

    def highest_prices(self, model: str, request: Request, prompt_tokens: float) -> tuple[float, float] | None:
        """Returns the highest prices, in picodollars, that a token of the request's prompt and one of its answer can
        have; None if the model's prices are unknown.
        """
        table = self._tables.get(model)
        return None if table is None else table.highest(request, prompt_tokens)

    def parts(self, model: str, usage: Usage) -> CostParts:
        """Returns the picodollars of an engine's tokens by component, which is the kind of tokens.

        If a price is unknown, the result is {UNPRICED: 0}, or empty if there are no tokens.
        """
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
        if parts is None:
            return {UNPRICED: 0} if usage.prompt_tokens or usage.completion_tokens else {}
        return parts

    def missing_price(self, model: str, usage: Usage) -> str:
        """Returns a note on a price that the usage needs and the model's prices lack; empty if none is lacking, or the
        model has no prices at all.
        """
        table = self._tables.get(model)
        missing = table.missing(usage) if table is not None else ""
        return f"cost unknown: model '{model}' lacks a price of {missing}" if missing else ""

    def surcharge(self, model: str, usage: Usage, parts: CostParts) -> int:
        """Returns by how many picodollars an answer's tokens, priced in `parts`, cost more than as many plain tokens.

        It is negative if they cost less, and 0 if a price is unknown.
        """
        if usage.details is None or UNPRICED in parts:
            return 0
        tokens = sum([amount for kind, amount in parts.items() if kind in TOKEN_COMPONENTS])
        return tokens - sum(self.parts(model, replace(usage, details=None)).values())

    def add_charges(self, parts: CostParts, model: str, messages: Iterable[Message]) -> None:
        """Adds to `parts` what the model's answer costs in addition to tokens, for the request and for each image in
        `messages`.
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
        """Returns the picodollars of embedding that many queries."""
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
        """Returns one request's share of `training_usd`, in picodollars; 0 if that cost is unknown."""
        terms = self._training
        return round(self.training_usd(model, version) / terms.expected_requests * PICODOLLARS) if terms else 0

    def training_usd_per_hour(self, model: str, version: str) -> float:
        """Returns `training_usd` divided by the hours for which a version is expected to be used; 0 if that cost is
        unknown.
        """
        terms = self._training
        return self.training_usd(model, version) / (terms.expected_days * 24) if terms else 0.0


def _plain_prices(prices: KindPrices) -> TokenPrices:
    return prices["prompt"], prices["cached"], prices["completion"]


@dataclass(slots=True)
class PathMeans:
    """Exponential moving averages over a path's answers: tokens, costs and seconds."""

    added_tokens: float
    """Tokens that the path's prompt adds to the request's own."""
    cached_fraction: float
    """Fraction (0 to 1) of the prompt that was in the engine's prefix cache."""
    completion_tokens: float
    other_picodollars: float
    """Cost of the request, searches, embeddings and hedges, and what special tokens cost more than plain ones."""
    uncached_tokens: float = 0.0
    """Tokens of the prompt that were not in the prefix cache."""
    prefill_seconds: float = 0.0
    """Seconds from sending the prompt to the first token, without the engine's queue."""

    @property
    def prefill_seconds_per_token(self) -> float | None:
        """Returns the seconds for each prompt token that is not in the prefix cache; None if there was none."""
        return self.prefill_seconds / self.uncached_tokens if self.uncached_tokens else None


class PathStatistics:
    """The means of all paths, by name and fingerprint (a hash of the path's configuration). They survive a reload.

    Paths that callers name, such as adapter versions, have no fingerprint, and are counted apart from configured ones.
    """

    def __init__(self) -> None:
        self._configured: OrderedDict[tuple[str, str], PathMeans] = OrderedDict()
        """The path that has been without an answer for longest comes first, also in `_named`."""
        self._named: OrderedDict[tuple[str, str], PathMeans] = OrderedDict()

    def of(self, path: Path) -> PathMeans | None:
        """Returns the means of a path; None before its first answer."""
        known = self._configured if path.fingerprint else self._named
        return known.get((path.name, path.fingerprint))

    def add(
        self, path: Path, own_tokens: int, usage: Usage, other_picodollars: int, prefill_seconds: float = 0.0
    ) -> None:
        """Adds a complete answer to its path's means.

        `own_tokens` is the number of tokens of the request's own messages, `other_picodollars` what the answer cost
        besides plain tokens, images and training, and `prefill_seconds` the time from sending the prompt to the first
        token, without the engine's queue.
        """
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        cached = usage.cached_tokens / prompt if prompt else 0.0
        known, key = self._configured if path.fingerprint else self._named, (path.name, path.fingerprint)
        means = known.get(key)
        if means is not None:
            means.added_tokens += SMOOTHING * (prompt - own_tokens - means.added_tokens)
            means.cached_fraction += SMOOTHING * (cached - means.cached_fraction)
            means.completion_tokens += SMOOTHING * (completion - means.completion_tokens)
            means.other_picodollars += SMOOTHING * (other_picodollars - means.other_picodollars)
            means.uncached_tokens += SMOOTHING * (prompt - usage.cached_tokens - means.uncached_tokens)
            means.prefill_seconds += SMOOTHING * (prefill_seconds - means.prefill_seconds)
        else:
            uncached = prompt - usage.cached_tokens
            known[key] = PathMeans(
                prompt - own_tokens, cached, completion, other_picodollars, uncached, prefill_seconds
            )
        known.move_to_end(key)
        if len(known) > MAX_PATHS:
            known.popitem(last=False)


class CostEstimator:
    """Estimates what a request costs on a path; implements the router's `ExpectedCost`, and `PathCosts`."""

    def __init__(self, pricing: Pricing, statistics: PathStatistics | None = None) -> None:
        self._pricing = pricing
        self.statistics = statistics or PathStatistics()

    def usd(self, path: Path, request: Request) -> float | None:
        """Returns the expected dollars of a request on the path, without training; None if a price is unknown.

        They follow from the path's answers so far, and before the first one from the length of the request and its
        `max_tokens` (see `estimate_answer_tokens`). Images are added in both cases.
        """
        prices = self._pricing.token_prices(path.model)
        if prices is None:
            return None
        if request.media:
            images = self._pricing.images(path.model, request.messages) / PICODOLLARS
            text = self.usd(path, replace(request, media=NO_MEDIA))
            return None if text is None else images + text
        means = self.statistics.of(path)
        if means is not None:
            return self._picodollars(path.model, prices, means, estimate_own_tokens(request)) / PICODOLLARS
        answer = estimate_answer_tokens(request, request.sampling.default_max_tokens(path.sampling))
        parts = self._pricing.parts(path.model, Usage(estimate_own_tokens(request), answer))
        other = self._pricing.request(path.model) + self._pricing.searches(len(path.collections))
        return (sum(parts.values()) + other) / PICODOLLARS

    def most_usd(self, path: Path, request: Request) -> float | None:
        """Returns the dollars of the request if all its expected tokens are of the most expensive kinds that it can
        have; None if the price of the path's model is unknown.
        """
        means, pricing = self.statistics.of(path), self._pricing
        own = estimate_own_tokens(request)
        if means is not None:
            prompt, answer = max(0.0, own + means.added_tokens), means.completion_tokens
            other = max(0.0, means.other_picodollars)
        else:
            prompt, answer = own, estimate_answer_tokens(request, request.sampling.default_max_tokens(path.sampling))
            other = pricing.request(path.model) + pricing.searches(len(path.collections))
        prices = pricing.highest_prices(path.model, request, prompt)
        if prices is None:
            return None
        tokens = prompt * prices[0] + answer * prices[1]
        return (tokens + other + pricing.images(path.model, request.messages)) / PICODOLLARS

    def extra_usd(self, decision: Decision) -> float:
        """Returns the dollars that the receipt will have in addition to `usd`: a share of the adapter's training, and
        the embedding of the query.
        """
        adapter = decision.path.resolved_adapter
        training = self._pricing.training(decision.path.model, adapter.version) if adapter is not None else 0
        return (training + self._pricing.embeddings(decision.vector is not None)) / PICODOLLARS

    def picodollars(self, path: Path, requests: int, tokens: int) -> float | None:
        """Returns the expected picodollars of `requests` requests whose own messages have `tokens` tokens together.

        Returns None before the path's first answer, or if the price is unknown.
        """
        means, prices = self.statistics.of(path), self._pricing.token_prices(path.model)
        if means is None or prices is None:
            return None
        return self._picodollars(path.model, prices, means, tokens, requests)

    def is_priced(self, path: Path) -> bool:
        return self._pricing.token_prices(path.model) is not None

    def _picodollars(self, model: str, prices: TokenPrices, means: PathMeans, tokens: int, requests: int = 1) -> float:
        prompt = max(0.0, tokens + requests * means.added_tokens)
        prompt_price, cached_price, completion_price = self._pricing.prices_at(model, prices, prompt / max(1, requests))
        cached = means.cached_fraction
        of_prompt = prompt * ((1 - cached) * prompt_price + cached * cached_price)
        return of_prompt + requests * (means.completion_tokens * completion_price + means.other_picodollars)
