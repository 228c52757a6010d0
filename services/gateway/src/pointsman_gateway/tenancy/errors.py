"""What a caller is told who has met a limit, or has no key."""

from pointsman_servicekit.errors import ResourceExhausted, Unauthenticated, Unavailable
from pointsman_servicekit.keys.records import NANO
from pointsman_servicekit.keys.redis_layout import WHOLE_TENANT

from pointsman_gateway.tenancy.leases import LeasedLimit

SOON = 1.0
"""Seconds; what others hold and do not need has come back by then."""

_WORDS = {
    "requests_per_minute": "{} requests a minute",
    "tokens_per_minute": "{} tokens a minute",
    "concurrent_streams": "{} requests at once",
    "dollars_per_day": "{} dollars a day",
    "dollars_per_month": "{} dollars a month",
}
_MISSING = "send a key as 'Authorization: Bearer pm_...'"
_UNKNOWN = "this is no key of ours; keys look like pm_PREFIX_SECRET, and `pointsman keys create` makes one"


def exhausted(account: LeasedLimit, need: int, now: float, alone: bool) -> ResourceExhausted:
    whose = "tenant" if f":account:{WHOLE_TENANT}:" in account.name else "key"
    allowed = f"this {whose} may have {_WORDS[account.limit].format(_shown(account, account.most))}"
    if need > account.most:
        message = f"{allowed}, and this request alone may need {_shown(account, need)}"
        return ResourceExhausted(message, code=account.limit)
    wait = _wait(account, need, now, alone)
    why = ", and Redis, which shares them out, is away" if alone else ""
    return ResourceExhausted(
        f"{allowed}{why}; try again in {max(wait, 0.1):.1f} s", code=account.limit, retry_after=max(wait, 0.1)
    )


def contended() -> Unavailable:
    return Unavailable("too many requests share what is left of a limit", code="limits_contended", retry_after=SOON)


def missing() -> Unauthenticated:
    return Unauthenticated(f"there is no key; {_MISSING}", code="missing_key")


def unknown() -> Unauthenticated:
    return Unauthenticated(_UNKNOWN, code="unknown_key")


def revoked(prefix: str) -> Unauthenticated:
    return Unauthenticated(f"the key pm_{prefix}_... has been revoked", code="revoked_key")


def expired(prefix: str) -> Unauthenticated:
    return Unauthenticated(f"the key pm_{prefix}_... has expired; ask for a new one", code="expired_key")


def _wait(account: LeasedLimit, need: int, now: float, alone: bool) -> float:
    until_the_end = account.ends - now
    if alone or account.unspent >= need:
        return min(SOON, until_the_end)
    return SOON if account.limit == "concurrent_streams" else until_the_end


def _shown(account: LeasedLimit, amount: int) -> str:
    return f"{amount / NANO:.6g}" if account.limit.startswith("dollars") else f"{amount:,}"
