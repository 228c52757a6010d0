"""Reads OpenAI's exports: answers of its usage and costs APIs, and the CSV files of its usage page.

Sources: OpenAI API reference, "Usage" (organization/usage/completions, embeddings, web_search_calls) and "Costs"
(organization/costs). The CSV files have the API's fields as columns, and nested ones joined by "_".
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pointsman_gateway.config.field_types import ConfigError

from pointsman_lab.reconcile.exports.lines import (
    ALL_KINDS,
    REQUESTS,
    TOOLS,
    Export,
    Line,
    check_page,
    to_count,
    to_picodollars,
)
from pointsman_lab.reconcile.exports.meter_words import kind_of, tier_of

PROVIDERS = ("openai", "litellm/openai")
USAGE, COSTS = "OpenAI's usage", "OpenAI's costs"

_TOKENS = {
    "input_cached_tokens": "cached",
    "input_cache_write_tokens": "cache_write",
    "input_audio_tokens": "prompt_audio",
    "output_audio_tokens": "completion_audio",
    "output_image_tokens": "completion_image",
}
"""Fields with tokens of special kinds -> the kind. `input_tokens` or `output_tokens` include them."""
_PARTS = {
    "input_uncached_tokens", "input_text_tokens", "input_image_tokens", "input_cached_text_tokens",
    "input_cached_audio_tokens", "input_cached_image_tokens", "output_text_tokens",
}  # fmt: skip
"""Fields that are ignored, because they divide tokens of other fields in another way."""
_STANDARD_TIERS = ("", "default", "standard", "auto")
_MILLISECONDS = 10**11
"""A time above this number is in Unix milliseconds; a smaller one is in Unix seconds."""


def is_page(content: Any) -> bool:
    """Returns whether a JSON value is an answer of OpenAI's usage or costs API."""
    return isinstance(content, dict) and content.get("object") == "page" and isinstance(content.get("data"), list)


def is_table(columns: list[str]) -> bool:
    """Returns whether a CSV file with these columns (as `plain_name` returns them) is from OpenAI's usage page."""
    return {"start_time", "end_time"} <= {*columns} and bool(
        {"num_model_requests", "amount_value", "input_tokens", "num_requests"} & {*columns}
    )


def read_page(page: Mapping[str, Any], where: str) -> list[Export]:
    """Reads the JSON answer `page` of OpenAI's usage or costs API; returns its exports: usage, costs or both.

    `where` names the file in error messages. Raises ConfigError if the answer has further pages, or a value is invalid.
    """
    check_page(page, where)
    results, covered = [], []
    for number, bucket in enumerate(page["data"]):
        if not isinstance(bucket, dict) or not isinstance(bucket.get("results"), list):
            raise ConfigError(f"{where}: data[{number}] has no list of results; get the report again")
        interval = _interval(bucket, f"{where}: data[{number}]")
        covered.append(interval)
        results += [(interval, result, f"{where}: data[{number}]") for result in bucket["results"]]
    return _exports(results, covered)


def read_table(rows: Iterator[tuple[int, Mapping[str, str]]], where: str) -> list[Export]:
    """Reads a CSV file of OpenAI's usage page; returns its exports: usage, costs or both.

    Each of `rows` is the number of a line and its values by column, whose names are converted by `plain_name`. `where`
    names the file in error messages. Raises ConfigError if a value is invalid.
    """
    results = []
    for number, row in rows:
        at = f"{where}, row {number}"
        filled = {name: value for name, value in row.items() if value != ""}
        if "amount_value" in row:
            amount = {"value": filled.get("amount_value"), "currency": filled.get("amount_currency")}
            result: dict[str, Any] = {**filled, "object": "organization.costs.result", "amount": amount}
        elif "num_requests" in row:
            result = {**filled, "object": "organization.usage.web_searches.result"}
        else:
            of = "completions" if "output_tokens" in row else "embeddings"
            result = {**filled, "object": f"organization.usage.{of}.result"}
        results.append((_interval(row, at), result, at))
    return _exports(results, list(dict.fromkeys(interval for interval, _, _ in results)))


def _interval(bucket: Mapping[str, Any], where: str) -> tuple[float, float]:
    begin, end = (float(to_count(bucket.get(name), f"{where}: {name}")) for name in ("start_time", "end_time"))
    if not 0 < begin < end < _MILLISECONDS:
        raise ConfigError(f"{where}: start_time and end_time should be Unix seconds, the earlier first")
    return begin, end


def _exports(results: list[tuple[tuple[float, float], Any, str]], covered: list[tuple[float, float]]) -> list[Export]:
    usage: list[Line] = []
    costs: list[Line] = []
    kinds = {"prompt", "completion"}
    left_out: set[str] = set()
    reports: set[tuple[str, tuple[float, float]]] = set()
    for interval, result, where in results:
        name = str(result.get("object", "")) if isinstance(result, dict) else ""
        reports.add((name, interval))
        match name.removeprefix("organization.").removesuffix(".result"):
            case "usage.completions" | "usage.embeddings":
                kinds |= {kind for field, kind in _TOKENS.items() if result.get(field) is not None}
                usage += _usage_lines(interval, result, where)
            case "usage.web_searches" | "usage.file_searches":
                count = to_count(result.get("num_requests"), f"{where}: num_requests")
                usage.append(Line(*interval, _model(result), TOOLS, count, key=_key(result)))
            case "costs":
                costs.append(_cost_line(interval, result, where))
            case "":
                raise ConfigError(f"{where} has a result without its 'object', which names what it counts")
            case other:
                left_out.add(other)
    notes = [f"left out, since no gateway sends such requests: {', '.join(sorted(left_out))}"] if left_out else []
    exports = []
    if usage or not costs:
        exports.append(Export(USAGE, PROVIDERS, usage, kinds, notes, covered, reports))
    if costs:
        exports.append(Export(COSTS, PROVIDERS, costs, {line.kind for line in costs}, notes, covered, reports))
    return exports


def _usage_lines(interval: tuple[float, float], result: Mapping[str, Any], where: str) -> Iterator[Line]:
    counts = {kind: to_count(result.get(field), f"{where}: {field}") for field, kind in _TOKENS.items()}
    read, written = (to_count(result.get(f"{part}_tokens"), f"{where}: {part}_tokens") for part in ("input", "output"))
    counts["prompt"] = read - counts["cached"] - counts["cache_write"] - counts["prompt_audio"]
    counts["completion"] = written - counts["completion_audio"] - counts["completion_image"]
    counts[REQUESTS] = to_count(result.get("num_model_requests"), f"{where}: num_model_requests")
    for field in result.keys() - _TOKENS.keys() - _PARTS - {"input_tokens", "output_tokens"}:
        if field.endswith("_tokens") and (count := to_count(result[field], f"{where}: {field}")):
            counts[field] = count  # a kind that is not known here
    if counts["prompt"] < 0 or counts["completion"] < 0:
        raise ConfigError(f"{where}: the tokens of special kinds are more than input_tokens or output_tokens")
    is_batch = str(result.get("batch")).lower() == "true"
    tier = result.get("service_tier")
    tier = "batch" if is_batch else None if tier is None else "" if str(tier) in _STANDARD_TIERS else str(tier)
    for kind, count in counts.items():
        yield Line(*interval, _model(result), kind, count, key=_key(result), tier=tier)


def _cost_line(interval: tuple[float, float], result: Mapping[str, Any], where: str) -> Line:
    amount, item = result.get("amount") or {}, str(result.get("line_item") or "")
    picodollars = to_picodollars(amount.get("value"), amount.get("currency"), f"{where}: amount")
    model, _, words = item.partition(",")
    kind = kind_of(words) if words else None
    if not item:
        return Line(*interval, "", ALL_KINDS, None, picodollars, _key(result))
    if kind is None:  # such as "web search tool calls"
        model, kind = ("", TOOLS) if "tool call" in item.lower() else ("", item)
    return Line(*interval, model.strip(), kind, None, picodollars, _key(result), tier_of(words) or None)


def _model(result: Mapping[str, Any]) -> str:
    return str(result.get("model") or "")


def _key(result: Mapping[str, Any]) -> str | None:
    found = result.get("api_key_id") or result.get("project_id")
    return None if found is None else str(found)
