"""What is where in Redis. What one script touches has the same braces, and so lies in one slot of a cluster."""

from datetime import UTC, datetime
from enum import StrEnum

A_MINUTE = 60
A_DAY = 24 * 60 * 60

KEYS = "{pointsman}:keys"
"""A hash: a credential's digest to the key's record, JSON."""

INDEX = "{pointsman}:keys:index"
"""A hash: a key's id, and its prefix, to the digest."""

TENANTS = "{pointsman}:tenants"
"""A hash: a tenant's name to its record, JSON."""

EPOCH = "{pointsman}:keys:epoch"
"""A number that goes up with each change that gateways must hear of: a revocation, other limits."""

CHANGED = "{pointsman}:keys:changed"
"""A channel on which such a change is told at once."""

GATEWAYS = "{pointsman}:gateways"
"""A sorted set: a gateway's id to when it counts as gone, unless it says otherwise; Unix milliseconds."""

USAGE = "{pointsman}:usage:"
"""With a day (YYYYMMDD, UTC) behind it: a hash, "TENANT:KEY:COUNTER" to a whole number."""

USAGE_WRITER = "{pointsman}:usage:writer:"
"""With a gateway's id behind it: the number of the last batch that it wrote."""

COUNTERS = (
    "requests", "failed", "cancelled", "prompt_tokens", "cached_tokens", "completion_tokens", "picodollars"
)  # fmt: skip
"""Of usage. Failed and cancelled requests are among the requests, cached tokens among the prompt's."""


class Window(StrEnum):
    """What a limit is counted over, by Redis's clock; days and months are UTC's."""

    MINUTE = "minute"
    DAY = "day"
    MONTH = "month"
    NOW = "now"
    """What is going on at once."""


WINDOWS = {
    "requests_per_minute": Window.MINUTE,
    "tokens_per_minute": Window.MINUTE,
    "concurrent_streams": Window.NOW,
    "dollars_per_day": Window.DAY,
    "dollars_per_month": Window.MONTH,
}
"""By limit."""

WHOLE_TENANT = "tenant"
"""In the place of a key's id, for what all keys of a tenant share."""


def limit_key(tenant: str, whose: str, limit: str) -> str:
    """A hash: `window` (which one), `held` and `used` (the sums over all who hold a slice of it), and for each of them
    "HELD USED NUMBER EXPIRES". Dollars are nanodollars. All of one tenant's are in one slot."""
    return f"{{pointsman:{tenant}}}:account:{whose}:{limit}"


def window_at(window: Window, unix_ms: int) -> tuple[int, int]:
    """Its number, and when it ends (Unix milliseconds)."""
    if window is Window.NOW:
        return 0, 2**62
    if window is Window.MONTH:
        at = datetime.fromtimestamp(unix_ms / 1000, UTC)
        number = at.year * 12 + at.month - 1
        after = datetime((number + 1) // 12, (number + 1) % 12 + 1, 1, tzinfo=UTC)
        return number, int(after.timestamp()) * 1000
    length = (A_MINUTE if window is Window.MINUTE else A_DAY) * 1000
    number = unix_ms // length
    return number, (number + 1) * length


def day_of(unix_seconds: float) -> str:
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y%m%d")


def days_of_month(unix_seconds: float) -> list[str]:
    """Those that have begun, today last."""
    at = datetime.fromtimestamp(unix_seconds, UTC)
    return [f"{at:%Y%m}{day:02}" for day in range(1, at.day + 1)]
