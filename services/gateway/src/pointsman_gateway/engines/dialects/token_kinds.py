"""Reads counts of special kinds of tokens from an engine's usage. A value of another type counts as 0."""

from typing import Any

_MAX_COUNT = 2**31
_STANDARD_TIERS = frozenset({"auto", "default", "on_demand", "standard", "standard_only"})
_MAX_TIER_CHARACTERS = 40


def to_count(value: Any) -> int:
    """Returns a number of tokens; 0 for any value that is not one."""
    return value if isinstance(value, int) and 0 <= value < _MAX_COUNT else 0


def count_in(details: Any, name: str) -> int:
    return to_count(details.get(name)) if isinstance(details, dict) else 0


def cache_writes(written: int, by_time: Any) -> tuple[int, int]:
    """Returns the tokens that were written to a cache for the usual time and for an hour.

    `by_time` is Anthropic's `cache_creation`; `written` is the count of both.
    """
    usual, one_hour = (count_in(by_time, f"ephemeral_{time}_input_tokens") for time in ("5m", "1h"))
    return max(usual, written - one_hour), one_hour


def service_tier_of(*names: Any) -> str:
    """Returns the special tiers among the names that a provider gives, joined by "+"; empty if there are only standard
    ones.
    """
    special = [name for name in names if isinstance(name, str) and name and name not in _STANDARD_TIERS]
    return "+".join(special)[:_MAX_TIER_CHARACTERS]
