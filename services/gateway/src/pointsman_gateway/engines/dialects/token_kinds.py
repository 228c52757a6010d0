"""Reads the counts of special kinds of tokens, such as cached ones, from an engine's usage. Invalid values count as
0.
"""

from typing import Any

from pointsman_gateway.domain.usage import ANY_TIER, STANDARD_TIERS

_MAX_COUNT = 2**31
_MAX_TIER_CHARACTERS = 40
WEB_SEARCHES = "web_search_requests"
"""The counter of web searches in Anthropic's `server_tool_use`. Of the tools that Anthropic runs, only this one is
billed per request."""


def to_count(value: Any) -> int:
    """Returns `value` if it is a whole number from 0 to 2^31 - 1, and otherwise 0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and 0 <= value < _MAX_COUNT else 0


def count_in(details: Any, name: str) -> int:
    return to_count(details.get(name)) if isinstance(details, dict) else 0


def cache_writes(written: int, by_time: Any) -> tuple[int, int]:
    """Returns the numbers of tokens written to a provider's prompt cache: first those kept for 5 minutes, the usual
    time, then those kept for an hour.

    `written` is the number of all tokens that were written, and `by_time` is the object `cache_creation` of
    Anthropic's usage, which has a count for each time; other values of `by_time` are ignored.
    """
    usual, one_hour = (count_in(by_time, f"ephemeral_{time}_input_tokens") for time in ("5m", "1h"))
    return max(usual, written - one_hour), one_hour


def service_tier_of(*names: Any) -> str:
    """Returns the non-standard service tiers among `names`, the values that a provider reports; empty if there are
    none.

    Several tiers are joined by "+", and the result is cut to 40 characters.
    """
    special = [name for name in names if isinstance(name, str) and name and name not in (*STANDARD_TIERS, ANY_TIER)]
    return "+".join(special)[:_MAX_TIER_CHARACTERS]
