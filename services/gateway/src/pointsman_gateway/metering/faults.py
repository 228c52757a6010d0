"""Whose fault it is that a request did not come to its end: what an objective counts, and whom an alert calls."""

from collections.abc import Mapping

from pointsman_servicekit.errors import PointsmanError

_BY_CODE: Mapping[str, str] = {
    "engine_not_ready": "engine",
    "engine_error": "engine",
    "engine_overloaded": "engine",
    "engine_unavailable": "engine",
    "breaker_open": "engine",
    "connect_timeout": "engine",
    "first_token_timeout": "engine",
    "gap_timeout": "engine",
    "adapter_not_resident": "adapter",
    "lora_server_unavailable": "adapter",
    "nothing_relevant": "retriever",
    "retriever_unavailable": "retriever",
    "redis_unavailable": "state",
    "keys_unavailable": "state",
    "limits_contended": "state",
}
"""Of errors that are not the caller's; any other is the gateway's own, `deadline_exceeded` among them: a deadline that
passes names nobody else."""

_WITHOUT_ERROR: Mapping[str, str] = {"ok": "none", "cancelled": "caller"}


def fault_of(outcome: str, error: PointsmanError | None) -> str:
    """ "none", "caller", "limits", "gateway", "engine", "adapter", "retriever" or "state".

    `outcome` is "ok", "cancelled", "internal" or the code of `error`.
    """
    if error is None:
        return _WITHOUT_ERROR.get(outcome, "gateway")
    if error.http_status == 429:
        return "limits"
    return "caller" if error.http_status < 500 else error.fault or _BY_CODE.get(error.code, "gateway")
