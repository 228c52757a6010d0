"""Computes whether a conversation's change to another path pays, apart from quality.

Each request of a conversation reads its whole context again. On the path that answered before, most of it is in the
prefix cache of the engine or provider; another path reads all of it once at the full price:

    pays  <=>  (cost of a request on the kept path - on the other path) x requests left  >  price of reading it again
"""

from math import floor, log10

from pointsman_gateway.domain.value import value

CACHE_SECONDS = 300.0
"""How long providers and engines are assumed to keep a prefix that nobody uses."""


@value
class PathPrices:
    """The prices of one path's tokens and answers, in dollars."""

    prompt: float
    """A new token of the prompt."""
    cached: float
    """A token of the prompt that is in the prefix cache."""
    reading: float
    """What a token of the context costs more if it has to be read again: the difference of both prices, or the time of
    an engine that is paid by the hour."""
    answer: float
    """The rest of one answer: its tokens, searches and embeddings."""
    added_tokens: float = 0.0
    """Tokens that the path's own prompt adds to the context."""

    def request_usd(self, context_tokens: float, new_tokens: float) -> float:
        """Returns the dollars of a request of which all tokens but the new ones are in the prefix cache."""
        old_tokens = max(0.0, context_tokens + self.added_tokens - new_tokens)
        return old_tokens * self.cached + new_tokens * self.prompt + self.answer

    def reading_usd(self, context_tokens: float, known_tokens: float = 0.0) -> float:
        """Returns the dollars to read a context again whose first `known_tokens` are still in the prefix cache."""
        added = 0.0 if known_tokens else self.added_tokens
        return max(0.0, context_tokens - known_tokens + added) * self.reading


@value
class ConversationState:
    """The state of a conversation by which a change of its path is priced."""

    tokens: float
    """Of its messages, without what paths add."""
    new_tokens: float
    """Of these, the ones that are new since the last request; as many are expected in each further request."""
    requests_left: float
    """Expected, with this one."""
    idle_seconds: float = 0.0
    """Since the request before this one."""
    known_tokens: float = 0.0
    """Of its beginning, in the prefix cache of the other path, which has answered before."""


@value
class Change:
    """The dollars that a change to another path saves until the conversation's end, and those that it costs now."""

    gain_usd: float
    price_usd: float

    @property
    def pays(self) -> bool:
        return self.gain_usd > self.price_usd

    def __str__(self) -> str:
        return f"{to_text(self.price_usd)} for {to_text(max(0.0, self.gain_usd))}"


def change_of(kept: PathPrices, other: PathPrices, state: ConversationState) -> Change:
    """Computes gain and price of a change from the kept path to another one.

    After a pause of over `CACHE_SECONDS` the kept path must read the context again, too, which lowers the price.
    """
    tokens, new_tokens = state.tokens, state.new_tokens
    old_tokens = tokens - new_tokens
    gain = kept.request_usd(tokens, new_tokens) - other.request_usd(tokens, new_tokens)
    price = other.reading_usd(old_tokens, state.known_tokens)
    if state.idle_seconds > CACHE_SECONDS:
        price -= kept.reading_usd(old_tokens)
    return Change(gain * state.requests_left, max(0.0, price))


def to_text(usd: float) -> str:
    """Returns dollars with at least four decimals and two significant digits."""
    decimals = 4 if usd <= 0 else min(12, max(4, 1 - floor(log10(usd))))
    return f"${usd:.{decimals}f}"
