"""Reads the counts of special kinds of tokens from the usage that an engine reports. Invalid values count as 0."""

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
    """Returns two counts of tokens that were written to the provider's prompt cache: for the usual time (5 minutes),
    and for an hour.

    `by_time` is Anthropic's `cache_creation`; `written` is the number of all tokens that were written.
    """
    usual, one_hour = (count_in(by_time, f"ephemeral_{time}_input_tokens") for time in ("5m", "1h"))
    return max(usual, written - one_hour), one_hour


def service_tier_of(*names: Any) -> str:
    """Returns the names of non-standard service tiers among the values that a provider reports, joined by "+" and cut
    to 40 characters. It is empty if there are none.
    """
    special = [name for name in names if isinstance(name, str) and name and name not in (*STANDARD_TIERS, ANY_TIER)]
    return "+".join(special)[:_MAX_TIER_CHARACTERS]
