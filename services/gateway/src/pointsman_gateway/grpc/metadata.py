"""Metadata of gRPC calls: the credential and cache control of requests; decision, usage and cost of answers."""

from collections.abc import Iterable, Mapping

from pointsman_servicekit.logs import request_id

from pointsman_gateway.codec.headers import cost_headers, decision_headers
from pointsman_gateway.domain import Decision, Receipt, Started

Metadata = tuple[tuple[str, str], ...]

_NO_LIMITS: Mapping[str, str] = {}


def authorization(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """The value of the Authorization header; empty if there is none."""
    for name, value in metadata or ():
        if name == "authorization":
            return str(value)
    return ""


def cache_control(metadata: Iterable[tuple[str, str | bytes]] | None) -> bytes:
    """The value of the Cache-Control header; empty if there is none."""
    found = next((value for name, value in metadata or () if name == "cache-control"), "")
    return found.encode() if isinstance(found, str) else found


def initial_metadata(started: Started) -> Metadata:
    """Initial metadata of a stream: the response headers that HTTP sends, by the same names."""
    headers = [(name.decode(), _to_ascii(value.decode("latin-1"))) for name, value in decision_headers(started)]
    return (*headers, *started.limit_headers.items())


def trailing_metadata(
    decision: Decision | None, receipt: Receipt | None, limits: Mapping[str, str] = _NO_LIMITS
) -> Metadata:
    """Trailing metadata as far as it is known; `limits` are the rate limit headers if none were sent before."""
    sent = [("x-pointsman-request-id", _to_ascii(request_id.get()))]
    if decision is not None:
        sent += [
            ("x-pointsman-decision-id", decision.id),
            ("x-pointsman-path", _to_ascii(decision.path.name)),
            ("x-pointsman-kind", decision.path.kind.value),
        ]
    if receipt is not None:
        usage = receipt.usage
        sent += [
            *((name.decode(), cost.decode()) for name, cost in cost_headers(receipt)),
            ("x-pointsman-prompt-tokens", str(usage.prompt_tokens)),
            ("x-pointsman-completion-tokens", str(usage.completion_tokens)),
            ("x-pointsman-cached-tokens", str(usage.cached_tokens)),
        ]
    return (*sent, *limits.items())


def _to_ascii(value: str) -> str:
    """Replaces characters that metadata cannot hold; names in the configuration may contain any character."""
    if value.isascii() and value.isprintable():
        return value
    return "".join([c if c.isascii() and c.isprintable() else "?" for c in value])
