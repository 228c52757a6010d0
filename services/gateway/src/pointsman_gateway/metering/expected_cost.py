"""Estimates what requests cost before they are answered, by the answers that their path has given."""

from collections import OrderedDict
from dataclasses import dataclass, replace

from pointsman_gateway.domain import PICODOLLARS, Decision, Path, Request, Usage
from pointsman_gateway.domain.request import NO_MEDIA
from pointsman_gateway.metering.pricing import Pricing, TokenPrices
from pointsman_gateway.metering.token_estimates import estimate_answer_tokens, estimate_own_tokens

SMOOTHING = 0.05
"""Weight of a new answer in its path's exponential moving averages: they cover about the last 20 answers."""

MAX_PATHS = 4096
"""The most configured paths, and the most paths that callers name, whose means are kept in memory. Beyond it the path
that has been without an answer for longest is dropped."""


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
