"""Computes whether it saves dollars to change a conversation's path; the quality of answers does not count here.

Each request of a conversation reads all its messages again. On the path that answered before, most of them are in the
prefix cache of the engine or provider; another path has to read all of them once at the full price. The change pays if
that price is less than what the other path saves per request, times the number of requests that are left.
"""

from math import floor, log10

from pointsman_gateway.domain.value import value

CACHE_SECONDS = 300.0
"""Seconds for which providers and engines are assumed to keep an unused prefix in their prefix cache."""


@value
class PathPrices:
    """One path's prices in dollars: per token of the prompt (new, cached or read again) and per answer."""

    prompt: float
    """The price of a new token of the prompt."""
    cached: float
    """The price of a token of the prompt that is in the prefix cache."""
    reading: float
    """The additional cost of a token that is no longer in the prefix cache: `prompt` minus `cached` or, for an engine
    that is paid by the hour, the cost of the time to read the token."""
    answer: float
    """The price of the rest of one answer: its tokens, searches and embeddings."""
    added_tokens: float = 0.0
    """Number of tokens that the path's own prompt adds to the conversation's messages."""

    def request_usd(self, context_tokens: float, new_tokens: float) -> float:
        """Returns the dollars of a request with `context_tokens` tokens, of which all but `new_tokens` are in the
        prefix cache.
        """
        old_tokens = max(0.0, context_tokens + self.added_tokens - new_tokens)
        return old_tokens * self.cached + new_tokens * self.prompt + self.answer

    def reading_usd(self, context_tokens: float, known_tokens: float = 0.0) -> float:
        """Returns the additional dollars of a request whose messages are not in the prefix cache and must be read in
        full.

        `context_tokens` is the number of the messages' tokens. The first `known_tokens` of them are still in the cache.
        """
        added = 0.0 if known_tokens else self.added_tokens
        return max(0.0, context_tokens - known_tokens + added) * self.reading


@value
class ConversationState:
    """The length, the pace and the expected end of a conversation, from which a change of its path is priced."""

    tokens: float
    """Number of tokens of its messages, without what paths add."""
    new_tokens: float
    """Number of these tokens that are new since the last request; as many are expected in each further request."""
    requests_left: float
    """Expected number of requests until the conversation ends, with this one."""
    idle_seconds: float = 0.0
    """Seconds since the request before this one."""
    known_tokens: float = 0.0
    """Number of tokens at the beginning that are in the other path's prefix cache, if it has answered before."""


@value
class Change:
    """What a change to another path means in dollars: what it saves until its end, and its cost now."""

    gain_usd: float
    price_usd: float

    @property
    def pays(self) -> bool:
        return self.gain_usd > self.price_usd

    def __str__(self) -> str:
        return f"{to_text(self.price_usd)} for {to_text(max(0.0, self.gain_usd))}"


def change_of(kept: PathPrices, other: PathPrices, state: ConversationState) -> Change:
    """Returns what a conversation's change from the path `kept`, which answered before, to `other` saves and costs.

    The cost is that of reading all earlier messages again on the other path. After a pause of more than `CACHE_SECONDS`
    the kept path would have to read them again too, so only the difference counts. The cost is never below 0.
    """
    tokens, new_tokens = state.tokens, state.new_tokens
    old_tokens = tokens - new_tokens
    gain = kept.request_usd(tokens, new_tokens) - other.request_usd(tokens, new_tokens)
    price = other.reading_usd(old_tokens, state.known_tokens)
    if state.idle_seconds > CACHE_SECONDS:
        price -= kept.reading_usd(old_tokens)
    return Change(gain * state.requests_left, max(0.0, price))


def to_text(usd: float) -> str:
    """Returns dollars as text, such as "$0.0123": four decimals, or up to 12 if two significant digits need more."""
    decimals = 4 if usd <= 0 else min(12, max(4, 1 - floor(log10(usd))))
    return f"${usd:.{decimals}f}"
