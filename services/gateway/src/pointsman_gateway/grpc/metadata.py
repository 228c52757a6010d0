"""What travels beside gRPC's messages: the credential on the way in; decision, usage and cost on the way out."""

from collections.abc import Iterable, Mapping

from pointsman_servicekit.logs import request_id

from pointsman_gateway.domain import Decision, Receipt, Started
from pointsman_gateway.http.openai.chat_encoder import cost_header, decision_headers

Metadata = tuple[tuple[str, str], ...]

_NONE: Mapping[str, str] = {}


def authorization(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """As HTTP's header; empty where there is none."""
    for name, value in metadata or ():
        if name == "authorization":
            return str(value)
    return ""


def cache_control(metadata: Iterable[tuple[str, str | bytes]] | None) -> bytes:
    """As HTTP's header of that name; empty where there is none."""
    found = next((value for name, value in metadata or () if name == "cache-control"), "")
    return found.encode() if isinstance(found, str) else found


def beginning(started: Started) -> Metadata:
    """Initial metadata of a stream: what HTTP sends in its response headers, by the same names."""
    ours = [(name.decode(), _printable(value.decode("latin-1"))) for name, value in decision_headers(started)]
    return (*ours, *started.limit_headers.items())


def trailers(decision: Decision | None, receipt: Receipt | None, limits: Mapping[str, str] = _NONE) -> Metadata:
    """As much as is known; `limits` where they have not been sent before."""
    sent = [("x-pointsman-request-id", _printable(request_id.get()))]
    if decision is not None:
        sent += [
            ("x-pointsman-decision-id", decision.id),
            ("x-pointsman-path", _printable(decision.path.name)),
            ("x-pointsman-kind", decision.path.kind.value),
        ]
    if receipt is not None:
        usage = receipt.usage
        sent += [
            ("x-pointsman-cost-usd", cost_header(receipt)[1].decode()),
            ("x-pointsman-prompt-tokens", str(usage.prompt_tokens)),
            ("x-pointsman-completion-tokens", str(usage.completion_tokens)),
            ("x-pointsman-cached-tokens", str(usage.cached_tokens)),
        ]
    return (*sent, *limits.items())


def _printable(value: str) -> str:
    """Metadata is ASCII without control characters; a name in the configuration may be more."""
    if value.isascii() and value.isprintable():
        return value
    return "".join([c if c.isascii() and c.isprintable() else "?" for c in value])
