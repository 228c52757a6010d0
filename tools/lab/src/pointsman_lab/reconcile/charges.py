"""Reads the charges from the receipts in the request log: tokens, cost by kind, and time of each engine's answer."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pointsman_gateway.domain import PICODOLLARS, UNPRICED, TokenDetails, Usage
from pointsman_gateway.request_log.entry import VERSION

from pointsman_lab.reconcile.exports.lines import KINDS, TOOLS

_DETAILS = frozenset(TokenDetails.__dataclass_fields__)
_OF_REQUESTS = {"request": "request", "image": "image", TOOLS: TOOLS, "embedding": "prompt", "rerank": "prompt"}
"""Components of a receipt's cost that are no kinds of tokens -> the kind under which a provider's export has them."""


@dataclass(frozen=True, slots=True)
class Charge:
    """The tokens and cost of one engine's answer, or of one request for embeddings or reranking, by its receipt."""

    began: float
    """When the request began, in Unix seconds."""
    ended: float
    engine: str
    """The engine's name in the configuration, without the number of a group's member.

    Empty in receipts of earlier versions.
    """
    model: str
    """The model's name in the configuration."""
    tier: str
    counts: Mapping[str, int]
    """The number of tokens by kind, where each token has one kind, and the number of requests to tools as `TOOLS`."""
    picodollars: Mapping[str, int]
    """The cost by kind of token, and by "request" and "image"."""
    is_priced: bool = True
    """Whether the cost is known."""
    is_estimate: bool = False
    is_hedged: bool = False
    """Whether a second engine got the same prompt, whose tokens are in no receipt."""
    busy: tuple[float, float] = (0.0, 0.0)
    """The begin and the end of the engine's work on the request, in Unix seconds."""
    member: str = ""
    """The engine's name in the configuration, with the number of a group's member."""
    requests: int = 1
    """The number of requests; more than 1 for a sum of charges."""


def charges_of(entry: str) -> Iterator[Charge]:
    """Yields the charges (usage and cost of each engine call) in one entry of the request log.

    Yields none if the entry has another format version, no engine was used, or the answer came from the cache.
    """
    body = json.loads(entry)
    if body.get("v") != VERSION or body.get("cached"):
        return
    if body.get("operation") in ("embeddings", "rerank"):
        yield from _charge(body, {**body, "engine": body["model"]}, body["seconds"])
    elif "path" in body:
        for attempt in body.get("attempts") or [{**body, "engine": body.get("engine", "")}]:
            if attempt["engine"] or attempt["model"]:
                yield from _charge(body, attempt, body["seconds"])


def _charge(body: Mapping[str, Any], attempt: Mapping[str, Any], seconds: Mapping[str, float]) -> Iterator[Charge]:
    given = {name: value for name, value in attempt.get("token_details", {}).items() if name in _DETAILS}
    details = TokenDetails(**given)
    usage = Usage(**attempt["usage"], details=details if given else None)
    counts = {kind: tokens for kind, tokens in usage.by_kind().items() if tokens}
    parts = attempt["cost_parts_usd"]
    if not counts and not any(parts.values()):
        return
    if details.tool_requests:
        counts[TOOLS] = details.tool_requests
    ended = body["unix_ms"] / 1000
    worked = sum(seconds.get(phase, 0.0) for phase in ("prefill", "generation"))
    picodollars: dict[str, int] = {}
    for part, usd in parts.items():
        kind = part if part in KINDS else _OF_REQUESTS.get(part)
        if kind is not None and usd is not None and (part != "embedding" or "path" not in body):
            picodollars[kind] = picodollars.get(kind, 0) + round(usd * PICODOLLARS)
    yield Charge(
        ended - seconds["total"],
        ended,
        attempt["engine"].partition("/")[0],
        attempt["model"],
        details.service_tier,
        counts,
        picodollars,
        UNPRICED not in parts,
        details.is_estimate,
        "hedge" in parts,
        (ended - worked, ended),
        attempt["engine"],
    )
