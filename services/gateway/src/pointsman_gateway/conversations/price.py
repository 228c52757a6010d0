"""Computes whether it saves dollars to change a conversation's path; the quality of answers does not count here.

Each request of a conversation sends all earlier messages again. On the path that answered before, most of them are in
the prefix cache of the engine or provider; another path has to read all of them once at the full price. The change pays
if this one-time cost is less than what the other path saves per request, times the expected number of remaining
requests.
"""

from math import floor, log10

from pointsman_gateway.domain.value import value

CACHE_SECONDS = 300.0
"""Seconds for which an engine's or provider's prefix cache is assumed to keep the tokens of a conversation without
requests."""


@value
class PathPrices:
    """The prices of one path in dollars: for each token of a prompt (new, cached, or read again), and for each
    answer.
    """

    prompt: float
    """Dollars for a token of the prompt that is not in the prefix cache."""
    cached: float
    """Dollars for a token of the prompt that is in the prefix cache."""
    reading: float
    """Dollars by which a token costs more if it is no longer in the prefix cache: `prompt` minus `cached`. For an
    engine that is paid by the hour, it is the cost of the time to read the token."""
    answer: float
    """Dollars for one answer without its prompt: the answer's tokens, searches and embeddings."""
    added_tokens: float = 0.0
    """Number of tokens that the path's own prompt adds to the conversation's messages."""

    def request_usd(self, context_tokens: float, new_tokens: float) -> float:
        """Returns the cost in dollars of a request whose messages have `context_tokens` tokens, if `new_tokens` of them
        are not in the prefix cache.
        """
        old_tokens = max(0.0, context_tokens + self.added_tokens - new_tokens)
        return old_tokens * self.cached + new_tokens * self.prompt + self.answer

    def reading_usd(self, context_tokens: float, known_tokens: float = 0.0) -> float:
        """Returns the dollars by which a request costs more because its messages are not in the prefix cache.

        `context_tokens` is the number of the messages' tokens. The first `known_tokens` of them are still in the prefix
        cache.
        """
        added = 0.0 if known_tokens else self.added_tokens
        return max(0.0, context_tokens - known_tokens + added) * self.reading


@value
class ConversationState:
    """The facts about a conversation from which the cost of changing its path is computed: length, pace and expected
    end.
    """

    tokens: float
    """Number of tokens of the conversation's messages, without the tokens that paths' own prompts add."""
    new_tokens: float
    """Number of the conversation's tokens that the last request did not have. Each further request is expected to add
    as many."""
    requests_left: float
    """Expected number of requests until the conversation ends, including the present request."""
    idle_seconds: float = 0.0
    """Seconds between the conversation's last request and the present one."""
    known_tokens: float = 0.0
    """Number of tokens at the conversation's beginning that are in the other path's prefix cache, because the other
    path answered earlier requests; 0 if it did not."""


@value
class Change:
    """The dollars that a change of a conversation's path saves until the conversation ends, and the dollars that the
    change costs now.
    """

    gain_usd: float
    price_usd: float

    @property
    def pays(self) -> bool:
        return self.gain_usd > self.price_usd

    def __str__(self) -> str:
        return f"{to_text(self.price_usd)} for {to_text(max(0.0, self.gain_usd))}"


def change_of(kept: PathPrices, other: PathPrices, state: ConversationState) -> Change:
    """Returns the savings and the cost, in dollars, of moving a conversation from the path `kept`, which answered
    before, to the path `other`.

    The cost is that of reading all earlier messages again on `other`. After a pause of more than `CACHE_SECONDS`,
    `kept` would have to read them again too, so only the difference counts. The cost is never below 0.
    """
    tokens, new_tokens = state.tokens, state.new_tokens
    old_tokens = tokens - new_tokens
    gain = kept.request_usd(tokens, new_tokens) - other.request_usd(tokens, new_tokens)
    price = other.reading_usd(old_tokens, state.known_tokens)
    if state.idle_seconds > CACHE_SECONDS:
        price -= kept.reading_usd(old_tokens)
    return Change(gain * state.requests_left, max(0.0, price))


def to_text(usd: float) -> str:
    """Returns dollars as text, such as "$0.0123". It has 4 decimals, and up to 12 for amounts so small that 4 do not
    show two significant digits.
    """
    decimals = 4 if usd <= 0 else min(12, max(4, 1 - floor(log10(usd))))
    return f"${usd:.{decimals}f}"
