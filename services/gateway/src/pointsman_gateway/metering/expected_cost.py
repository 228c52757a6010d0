"""Estimates what a request will cost on a path, from the answers that the path has given so far."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from pointsman_gateway.domain import PICODOLLARS, Path, Request, Usage
from pointsman_gateway.metering.pricing import Pricing, TokenPrices
from pointsman_gateway.metering.token_estimates import estimate_answer_tokens, estimate_own_tokens

SMOOTHING = 0.05
"""Weight of a new answer in its path's exponential moving averages: they cover about the last 20 answers."""

MAX_PATHS = 4096
"""Maximum number of configured paths, and of paths that callers name, whose means are kept in memory. Beyond it, the
path that has been without an answer for longest is dropped."""


@dataclass(slots=True)
class PathMeans:
    """Exponential moving averages over one path's answers: tokens, picodollars (1e-12 dollars) and seconds of an
    answer.
    """

    added_tokens: float
    """Mean number of tokens that the path's prompt adds to the request's own messages."""
    cached_fraction: float
    """Mean fraction (0 to 1) of the prompt's tokens that were in the engine's prefix cache."""
    completion_tokens: float
    other_picodollars: float
    """Mean picodollars of an answer besides plain tokens, images, embeddings and training: the price of the request
    itself, searches, hedged calls, and the surcharge of special kinds of tokens."""
    embeddings: float
    """Mean number of queries that were embedded for an answer, by the classifier or by the path."""
    own_embeddings: float
    """Mean number of queries that the path embeds for an answer if the classifier has not embedded the query."""
    uncached_tokens: float = 0.0
    """Mean number of the prompt's tokens that were not in the engine's prefix cache."""
    prefill_seconds: float = 0.0
    """Mean seconds from sending the prompt to the first token, without the wait in the engine's queue."""

    @property
    def prefill_seconds_per_token(self) -> float | None:
        """Returns the mean seconds that an engine takes to read a prompt token which is not in its prefix cache; None
        if all tokens so far were cached.
        """
        return self.prefill_seconds / self.uncached_tokens if self.uncached_tokens else None


class PathStatistics:
    """Moving averages of the answers of all paths, by name and fingerprint (a hash of the path's configuration). The
    averages are kept when the configuration is reloaded.

    A path that a caller names, such as an adapter version, has no fingerprint. Such paths have their own limit in
    number, so that they cannot displace configured paths.
    """

    def __init__(self) -> None:
        self._configured: OrderedDict[tuple[str, str], PathMeans] = OrderedDict()
        """The means of configured paths, by name and fingerprint. As in `_named`, the path that has been without an
        answer for longest comes first."""
        self._named: OrderedDict[tuple[str, str], PathMeans] = OrderedDict()
        self.request_tokens = 0.0
        """Exponential moving average of the tokens of all requests' own messages."""

    def of(self, path: Path) -> PathMeans | None:
        """Returns the means of a path; None before its first answer."""
        known = self._configured if path.fingerprint else self._named
        return known.get((path.name, path.fingerprint))

    def add(
        self,
        path: Path,
        own_tokens: int,
        usage: Usage,
        other_picodollars: int,
        prefill_seconds: float = 0.0,
        embeddings: int | None = 0,
    ) -> None:
        """Adds a complete answer to its path's means.

        `own_tokens` is the number of tokens of the request's own messages, `other_picodollars` the cost of the answer
        without plain tokens, images, embeddings and training, and `prefill_seconds` the time from sending the prompt to
        the first token, without the engine's queue. `embeddings` is the number of queries that the path embedded; None
        if the query was embedded to classify it.
        """
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        cached = usage.cached_tokens / prompt if prompt else 0.0
        embedded = 1 if embeddings is None else embeddings
        known, key = self._configured if path.fingerprint else self._named, (path.name, path.fingerprint)
        means = known.get(key)
        if means is not None:
            means.added_tokens += SMOOTHING * (prompt - own_tokens - means.added_tokens)
            means.cached_fraction += SMOOTHING * (cached - means.cached_fraction)
            means.completion_tokens += SMOOTHING * (completion - means.completion_tokens)
            means.other_picodollars += SMOOTHING * (other_picodollars - means.other_picodollars)
            means.embeddings += SMOOTHING * (embedded - means.embeddings)
            if embeddings is not None:
                means.own_embeddings += SMOOTHING * (embeddings - means.own_embeddings)
            means.uncached_tokens += SMOOTHING * (prompt - usage.cached_tokens - means.uncached_tokens)
            means.prefill_seconds += SMOOTHING * (prefill_seconds - means.prefill_seconds)
        else:
            uncached = prompt - usage.cached_tokens
            own = len(path.collections) if embeddings is None else embeddings
            known[key] = PathMeans(
                prompt - own_tokens, cached, completion, other_picodollars, embedded, own, uncached, prefill_seconds
            )
        self.request_tokens += (SMOOTHING if self.request_tokens else 1.0) * (own_tokens - self.request_tokens)
        known.move_to_end(key)
        if len(known) > MAX_PATHS:
            known.popitem(last=False)


def _resolved_version(path: Path) -> str:
    return path.resolved_adapter.version if path.resolved_adapter is not None else path.adapter


class CostEstimator:
    """Estimates the dollars that a request will cost on a path, with all components of its receipt's `cost_usd`;
    implements the router's `ExpectedCost`, and `PathCosts`.
    """

    def __init__(
        self,
        pricing: Pricing,
        statistics: PathStatistics | None = None,
        version_of: Callable[[Path], str] = _resolved_version,
    ) -> None:
        """Takes `version_of`, which returns the adapter version that a path with an adapter uses now."""
        self._pricing = pricing
        self.statistics = statistics or PathStatistics()
        self._version_of = version_of

    def usd(self, path: Path, request: Request, *, is_embedded: bool = False) -> float | None:
        """Returns the expected dollars of a request on the path; None if a price is unknown.

        Before the path's first answer, the estimate follows from the length of the request and its `max_tokens`, later
        from the path's answers. A request without text, as in a preview of routing, counts as one of average length.
        `is_embedded` says whether the query was embedded to classify it, which the request pays too.
        """
        pricing, means = self._pricing, self.statistics.of(path)
        prices = pricing.token_prices(path.model)
        if prices is None:
            return None
        own = estimate_own_tokens(request) or round(self.statistics.request_tokens)
        if means is not None:
            tokens = self._tokens_picodollars(path.model, prices, means, own)
        else:
            answer = estimate_answer_tokens(request, request.sampling.default_max_tokens(path.sampling))
            tokens = sum(pricing.parts(path.model, Usage(own, answer)).values())
        images = pricing.images(path.model, request.messages) if request.media else 0
        return (tokens + images + self.besides_tokens(path, is_embedded=is_embedded)) / PICODOLLARS

    def most_usd(self, path: Path, request: Request, *, is_embedded: bool = False) -> float | None:
        """Returns an upper estimate of the request's dollars on the path; None if the price of its model is unknown.

        It takes the expected number of tokens, each at the highest price that is possible for the request.
        `is_embedded` says whether the query was embedded to classify it, which the request pays too.
        """
        means, pricing = self.statistics.of(path), self._pricing
        own = estimate_own_tokens(request)
        if means is not None:
            prompt, answer = max(0.0, own + means.added_tokens), means.completion_tokens
        else:
            prompt, answer = own, estimate_answer_tokens(request, request.sampling.default_max_tokens(path.sampling))
        prices = pricing.highest_prices(path.model, request, prompt)
        if prices is None:
            return None
        tokens = prompt * prices[0] + answer * prices[1]
        other = max(0.0, self.besides_tokens(path, is_embedded=is_embedded))
        return (tokens + other + pricing.images(path.model, request.messages)) / PICODOLLARS

    def besides_tokens(self, path: Path, *, is_embedded: bool) -> float:
        """Returns the expected picodollars of an answer on the path, without its plain tokens and images.

        They are the answer's share of the adapter's training, and the costs of embeddings, searches and the request
        itself. `is_embedded` says whether the query was embedded to classify it.
        """
        means, pricing = self.statistics.of(path), self._pricing
        training = pricing.training(path.model, self._version_of(path)) if path.adapter else 0
        if means is not None:
            other, own_embeddings = means.other_picodollars, means.own_embeddings
        else:
            searches = len(path.collections)  # without the classifier's vector, each embeds the query
            other, own_embeddings = pricing.request(path.model) + pricing.searches(searches), searches
        return training + other + pricing.embeddings(1) * (1 if is_embedded else own_embeddings)

    def picodollars(self, path: Path, requests: int, tokens: int) -> float | None:
        """Returns the expected cost of `requests` requests in picodollars (1e-12 dollars), without adapter training.

        `tokens` is how many tokens the own messages of these requests have together. Returns None before the path's
        first answer, or if the price is unknown.
        """
        means, prices = self.statistics.of(path), self._pricing.token_prices(path.model)
        if means is None or prices is None:
            return None
        other = means.other_picodollars + means.embeddings * self._pricing.embeddings(1)
        return self._tokens_picodollars(path.model, prices, means, tokens, requests) + requests * other

    def is_priced(self, path: Path) -> bool:
        return self._pricing.token_prices(path.model) is not None

    def _tokens_picodollars(
        self, model: str, prices: TokenPrices, means: PathMeans, tokens: int, requests: int = 1
    ) -> float:
        prompt = max(0.0, tokens + requests * means.added_tokens)
        prompt_price, cached_price, completion_price = self._pricing.prices_at(model, prices, prompt / max(1, requests))
        cached = means.cached_fraction
        of_prompt = prompt * ((1 - cached) * prompt_price + cached * cached_price)
        return of_prompt + requests * means.completion_tokens * completion_price
