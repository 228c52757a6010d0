"""Writes the sales of the providers' double as exports in the providers' formats, using only its ledger."""

import json
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.reconcile.provider import OPUS, SOL, Sold, per_day

ITEMS = {"input": "input", "cached": "cached input", "write": "cache write", "output": "output"}
TOKEN_TYPES = {
    "input": "uncached_input_tokens", "cached": "cache_read_input_tokens", "output": "output_tokens",
    "write": "cache_creation.ephemeral_5m_input_tokens", "write_1h": "cache_creation.ephemeral_1h_input_tokens",
}  # fmt: skip


def write_exports(ledger: list[Sold], first: float, days: int, folder: Path) -> dict[str, Path]:
    """Writes usage and costs of both providers, and returns the files by name."""
    pages = {
        "openai_usage": _openai_page(ledger, first, days, _openai_usage),
        "openai_costs": _openai_page(ledger, first, days, _openai_costs),
        "anthropic_usage": _anthropic_page(ledger, first, days, _anthropic_usage),
        "anthropic_costs": _anthropic_page(ledger, first, days, _anthropic_costs),
    }
    files = {name: folder / f"{name}.json" for name in pages}
    for name, page in pages.items():
        files[name].write_text(json.dumps(page))
    return files


def _openai_page(ledger: list[Sold], first: float, days: int, results: Any) -> dict[str, Any]:
    buckets = [
        {"object": "bucket", "start_time": int(begin), "end_time": int(begin) + 86400, "results": results(sold)}
        for begin, sold in per_day([one for one in ledger if one.model == SOL], first, days)
    ]
    return {"object": "page", "data": buckets, "has_more": False, "next_page": None}


def _openai_usage(sold: list[Sold]) -> list[dict[str, Any]]:
    found = []
    for (key, tier), of in _grouped(sold).items():
        tokens = _tokens(of)
        read = tokens["input"] + tokens["cached"] + tokens["write"]
        found.append(
            {
                "object": "organization.usage.completions.result", "model": SOL, "api_key_id": key, "batch": False,
                "service_tier": tier or "default", "num_model_requests": len(of), "input_tokens": read,
                "input_cached_tokens": tokens["cached"], "input_cache_write_tokens": tokens["write"],
                "output_tokens": tokens["output"], "input_audio_tokens": 0, "output_audio_tokens": 0,
            }
        )  # fmt: skip
    return found


def _openai_costs(sold: list[Sold]) -> list[dict[str, Any]]:
    dollars: dict[str, Decimal] = defaultdict(Decimal)
    for one in sold:
        for kind, usd in one.dollars.items():
            tier = f", {one.tier}" if one.tier else ""
            dollars[f"{SOL}, {ITEMS[kind]}{tier}"] += usd
    return [
        {"object": "organization.costs.result", "amount": {"value": str(usd), "currency": "usd"}, "line_item": item}
        for item, usd in dollars.items()
        if usd
    ]


def _anthropic_page(ledger: list[Sold], first: float, days: int, results: Any) -> dict[str, Any]:
    buckets = [
        {"starting_at": _rfc3339(begin), "ending_at": _rfc3339(begin + 86400), "results": results(sold)}
        for begin, sold in per_day([one for one in ledger if one.model == OPUS], first, days)
    ]
    return {"data": buckets, "has_more": False, "next_page": None}


def _anthropic_usage(sold: list[Sold]) -> list[dict[str, Any]]:
    found = []
    for (key, tier), of in _grouped(sold).items():
        tokens = _tokens(of)
        writes = {"ephemeral_5m_input_tokens": tokens["write"], "ephemeral_1h_input_tokens": tokens["write_1h"]}
        found.append(
            {
                "uncached_input_tokens": tokens["input"], "cache_creation": writes, "model": OPUS, "api_key_id": key,
                "cache_read_input_tokens": tokens["cached"], "output_tokens": tokens["output"],
                "server_tool_use": {"web_search_requests": 0}, "service_tier": tier or "standard",
                "context_window": None, "inference_geo": "not_available",
            }
        )  # fmt: skip
    return found


def _anthropic_costs(sold: list[Sold]) -> list[dict[str, Any]]:
    cents: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for one in sold:
        for kind, usd in one.dollars.items():
            cents[one.tier, kind] += usd * 100
    return [
        {
            "amount": str(amount), "currency": "USD", "cost_type": "tokens", "model": OPUS, "workspace_id": None,
            "description": "usage", "token_type": TOKEN_TYPES[kind], "service_tier": tier or "standard",
            "context_window": None, "inference_geo": None,
        }
        for (tier, kind), amount in cents.items()
    ]  # fmt: skip


def _grouped(sold: Iterable[Sold]) -> dict[tuple[str, str], list[Sold]]:
    groups: dict[tuple[str, str], list[Sold]] = defaultdict(list)
    for one in sold:
        groups[one.key, one.tier].append(one)
    return groups


def _tokens(sold: Iterable[Sold]) -> dict[str, int]:
    sums: dict[str, int] = defaultdict(int)
    for one in sold:
        for kind, tokens in one.tokens.items():
            sums[kind] += tokens
    return sums


def _rfc3339(unix_seconds: float) -> str:
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
