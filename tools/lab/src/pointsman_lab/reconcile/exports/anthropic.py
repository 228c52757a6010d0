"""Reads Anthropic's exports: answers of its messages usage report and of its cost report.

Sources: Claude Platform Docs, "Usage and Cost API", "Get Messages Usage Report" (organizations/usage_report/messages)
and "Get Cost Report" (organizations/cost_report), whose amounts are in cents.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.engines.dialects.token_kinds import WEB_SEARCHES, service_tier_of

from pointsman_lab.reconcile.exports.lines import (
    ALL_KINDS,
    TOOLS,
    Export,
    Line,
    Number,
    check_interval,
    check_page,
    to_count,
    to_picodollars,
)

PROVIDERS = ("anthropic", "litellm/anthropic")
USAGE, COSTS = "Anthropic's usage report", "Anthropic's cost report"
KINDS = {
    "uncached_input_tokens": "prompt",
    "cache_read_input_tokens": "cached",
    "output_tokens": "completion",
    "cache_creation.ephemeral_5m_input_tokens": "cache_write",
    "cache_creation.ephemeral_1h_input_tokens": "cache_write_1h",
}
"""Value of `token_type` in the cost report -> Pointsman's kind of token. The values are the fields of the usage
report.
"""
CENTS = 100

_TIER_FIELDS = ("service_tier", "speed", "inference_geo")
_ANY_REGION = ("global", "not_available")


def is_page(content: Any) -> bool:
    """Returns whether a JSON value is an answer of Anthropic's usage or cost report."""
    buckets = content.get("data") if isinstance(content, dict) else None
    return isinstance(buckets, list) and all(isinstance(one, dict) and "starting_at" in one for one in buckets)


def read_page(page: Mapping[str, Any], where: str) -> list[Export]:
    """Reads the JSON answer `page` of Anthropic's usage or cost report; returns its exports: usage, costs or both.

    `where` names the file in error messages. Raises ConfigError if the answer has further pages, or a value is invalid.
    """
    check_page(page, where)
    usage: list[Line] = []
    costs: list[Line] = []
    covered = []
    for number, bucket in enumerate(page["data"]):
        at = f"{where}: data[{number}]"
        results = bucket.get("results")
        if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
            raise ConfigError(f"{at} has no list of results; get the report again")
        interval = check_interval(_time(bucket, "starting_at", at), _time(bucket, "ending_at", at), at)
        covered.append(interval)
        for result in results:
            if "amount" in result:
                costs.append(_cost_line(interval, result, at))
            else:
                usage += _usage_lines(interval, result, at)
    exports = []
    if usage or not costs:
        exports.append(Export(USAGE, PROVIDERS, usage, {*KINDS.values()}, covered=covered, reports=covered))
    if costs:
        kinds = {line.kind for line in costs}
        exports.append(Export(COSTS, PROVIDERS, costs, kinds, covered=covered, reports=covered))
    return exports


def _time(bucket: Mapping[str, Any], name: str, where: str) -> float:
    try:
        at = datetime.fromisoformat(str(bucket.get(name)))
    except ValueError:
        raise ConfigError(f"{where}: {name} is no time such as 2026-11-01T00:00:00Z") from None
    if at.tzinfo is None:
        raise ConfigError(f"{where}: {name} has no time zone, such as the Z of 2026-11-01T00:00:00Z")
    return at.timestamp()


def _usage_lines(interval: tuple[float, float], result: Mapping[str, Any], where: str) -> Iterator[Line]:
    counts: dict[str, Number] = {}
    for name, kind in KINDS.items():
        outer, _, inner = name.partition(".")
        value = (result.get(outer) or {}).get(inner) if inner else result.get(name)
        counts[kind] = to_count(value, f"{where}: {name}")
    tools = result.get("server_tool_use") or {}
    counts[TOOLS] = to_count(tools.get(WEB_SEARCHES), f"{where}: server_tool_use.{WEB_SEARCHES}")
    for name in result.keys() - KINDS.keys():
        if name.endswith("_tokens") and (count := to_count(result[name], f"{where}: {name}")):
            counts[name] = count  # a kind that is not known here
    for kind, count in counts.items():
        yield Line(*interval, str(result.get("model") or ""), kind, count, key=_key(result), tier=_tier(result))


def _cost_line(interval: tuple[float, float], result: Mapping[str, Any], where: str) -> Line:
    picodollars = to_picodollars(result["amount"], result.get("currency"), f"{where}: amount", CENTS)
    token_type, cost_type = result.get("token_type"), result.get("cost_type")
    if token_type:
        kind = KINDS.get(str(token_type), str(token_type))
    else:
        kind = TOOLS if cost_type == "web_search" else ALL_KINDS if cost_type in (None, "tokens") else str(cost_type)
    model = str(result.get("model") or "")
    return Line(*interval, model, kind, None, picodollars, _key(result), _tier(result))


def _key(result: Mapping[str, Any]) -> str | None:
    found = result.get("api_key_id") or result.get("workspace_id")
    return None if found is None else str(found)


def _tier(result: Mapping[str, Any]) -> str | None:
    """Returns the service tier as receipts name it; None if the report states none of the fields of which it
    consists.
    """
    parts = [result.get(name) for name in _TIER_FIELDS]
    if all(part is None for part in parts):
        return None
    return service_tier_of(*(part for part in parts if part not in _ANY_REGION))
