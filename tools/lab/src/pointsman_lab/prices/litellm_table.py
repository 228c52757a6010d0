"""Reads LiteLLM's price table: dollars per token by model, kind of token, length of the prompt and service tier."""

import importlib.util
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.token_prices import Prices
from pydantic import ValidationError

TOKEN_PRICES = {
    "input_cost_per_token": "prompt",
    "cache_read_input_token_cost": "cached",
    "output_cost_per_token": "completion",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "input_cost_per_audio_token": "prompt_audio",
    "input_cost_per_image_token": "prompt_image",
    "output_cost_per_audio_token": "completion_audio",
    "output_cost_per_image_token": "completion_image",
    "output_cost_per_reasoning_token": "reasoning",
}
"""LiteLLM's name of a price -> the kind of token that the price is for, by Pointsman's name."""
TIERS = ("flex", "priority")
"""The service tiers whose prices are imported. Batch prices are not imported, since a gateway sends no batches."""
UNCOUNTED_IF_FREE = frozenset({"cache_write", "cache_write_1h"})
"""Kinds of tokens that a provider does not count if their price is 0; this price is not imported."""
INSTALLED = "litellm"
"""The value of `--from` that stands for the price table of the installed package litellm."""

_TABLE_FILE = "model_prices_and_context_window_backup.json"
_PRICE = re.compile(rf"({'|'.join(TOKEN_PRICES)})(?:_above_(\d+)k_tokens)?(?:_({'|'.join(TIERS)}))?")
_PRICE_OF_A_TIER = re.compile(rf"(?:{'|'.join(TOKEN_PRICES)})(?:_above_\d+k_tokens)?_([a-z]+)")
_ANY_PRICE = re.compile(r".*(cost|pricing).*(?<!_batches)")
_MAX_FILE_BYTES = 64 * 1024 * 1024
_TWICE = "\0twice"
"""The key that marks a contradictory entry: one that has two values for one name, or that the table has twice with
different values.
"""

KindPrices = dict[str, float]
"""Dollars per million tokens, by kind of token ("prompt", "cached", ...)."""


@dataclass(frozen=True, slots=True)
class ImportedPrices:
    """The prices of one model, in the form of models.yaml."""

    entry: str
    """LiteLLM's name of the model."""
    usd_per_million_tokens: Prices
    """The dollars per million tokens in the standard service tier."""
    service_tiers: Mapping[str, Prices] = field(default_factory=dict)
    """The prices of other service tiers, by the tier's name, also in dollars per million tokens."""
    usd_per_request: float | None = None
    """The dollars for a request, in addition to its tokens; None if a request costs only its tokens."""
    not_imported: tuple[str, ...] = ()
    """LiteLLM's names of the prices that were not imported, and "tier NAME" for each further service tier."""


def read_table(source: str) -> dict[str, Any]:
    """Reads a price table of LiteLLM; returns its entries by LiteLLM's names of the models.

    `source` is the path of a file, or INSTALLED for the table of the installed package. Raises ConfigError if the
    package is not installed, or the file cannot be read or is not a price table of LiteLLM.
    """
    file = _installed_table() if source == INSTALLED else Path(source)
    try:
        if file.stat().st_size > _MAX_FILE_BYTES:
            raise ConfigError(f"{file} has more than {_MAX_FILE_BYTES:,} bytes, so it is no price table of LiteLLM")
        table = json.loads(file.read_text("utf-8-sig"), object_pairs_hook=_marking_contradictions)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is not JSON: {error}") from error
    entries = (
        {name: entry for name, entry in table.items() if isinstance(entry, dict)} if isinstance(table, dict) else {}
    )
    if not any("input_cost_per_token" in entry for entry in entries.values()):
        raise ConfigError(
            f"{file} is no price table of LiteLLM: it should have an object for each model, with input_cost_per_token"
        )
    return entries


def _marking_contradictions(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Converts the (name, value) pairs of a JSON object to a dict.

    If a name occurs with different values, the dict or the value gets the key `_TWICE`.
    """
    found: dict[str, Any] = {}
    for name, value in pairs:
        if found.get(name, value) == value:
            found[name] = value
        elif isinstance(value, dict):
            found[name] = {**value, _TWICE: name}
        else:
            found[_TWICE] = name
    return found


def _installed_table() -> Path:
    found = importlib.util.find_spec(INSTALLED)  # which does not import it
    folder = found and found.submodule_search_locations
    if not folder:
        raise ConfigError(
            "the package litellm is not installed here: pip install litellm, or name a file of its price table "
            "(model_prices_and_context_window.json)"
        )
    return Path(folder[0]) / _TABLE_FILE


def to_prices(name: str, entry: Mapping[str, Any]) -> ImportedPrices:
    """Converts the entry of the model `name` in LiteLLM's table.

    If cached tokens have no price, they get the price of other prompt tokens. A service tier is left out if it lacks
    prices for a length of the prompt that the standard tier has prices for.

    Raises ConfigError if a price is negative or not a number, if the price of prompt or answer is missing, or if the
    prices for different lengths of the prompt contradict each other.
    """
    if _TWICE in entry:
        raise ConfigError(f"'{name}' has two different values in the table: keep one of them")
    priced: dict[str, dict[int, KindPrices]] = {}
    for field_name, value in entry.items():
        match = _PRICE.fullmatch(field_name)
        if match:
            kind, above, tier = TOKEN_PRICES[match[1]], int(match[2] or 0) * 1000, match[3] or ""
            price = _price(name, field_name, value)
            if price is not None and not (price == 0 and kind in UNCOUNTED_IF_FREE):
                priced.setdefault(tier, {}).setdefault(above, {})[kind] = price
    ranges = entry.get("tiered_pricing")
    if ranges is not None:
        if any(above for above in priced.get("", ())):
            raise ConfigError(f"'{name}' has tiered_pricing and prices of long prompts (_above_...): they contradict")
        priced[""] = _by_range(name, ranges)
    standard = priced.pop("", {})
    if not {"prompt", "completion"} <= standard.get(0, {}).keys():
        raise ConfigError(f"'{name}' has no input_cost_per_token and output_cost_per_token")
    tiers = {
        tier: _to_prices(f"{name}, tier {tier}", of)
        for tier, of in priced.items()
        if {"prompt", "completion"} <= of.get(0, {}).keys() and of.keys() >= standard.keys()
    }
    request = entry.get("input_cost_per_request")
    per_request = None if request is None else _number(name, "input_cost_per_request", request)
    imported = ImportedPrices(name, _to_prices(name, standard), tiers, per_request or None)
    return replace(imported, not_imported=_not_imported(entry, imported))


def _not_imported(entry: Mapping[str, Any], imported: ImportedPrices) -> tuple[str, ...]:
    """Names the prices of an entry that are not in `imported`, except for those of 0 and of batches."""
    names: dict[str, None] = {}
    ranges = entry.get("tiered_pricing") or ()
    for of, is_range in ((entry, False), *((tier, True) for tier in ranges)):
        for field_name, value in of.items():
            is_price = _ANY_PRICE.fullmatch(field_name) and (any(value.values()) if isinstance(value, dict) else value)
            if is_price and not _is_imported(field_name, imported, is_range):
                tier = _PRICE_OF_A_TIER.fullmatch(field_name)
                names[f"tier {tier[1]}" if tier else field_name] = None
    return tuple(sorted(names))


def _is_imported(field_name: str, imported: ImportedPrices, is_range: bool) -> bool:
    match = _PRICE.fullmatch(field_name)
    if match is None or (is_range and field_name not in TOKEN_PRICES):
        return field_name in ("input_cost_per_request", "tiered_pricing")
    prices = imported.service_tiers.get(match[3]) if match[3] else imported.usd_per_million_tokens
    # Reasoning tokens without a price of their own have that of the completion.
    return prices is not None and (TOKEN_PRICES[match[1]] in prices.by_kind or TOKEN_PRICES[match[1]] == "reasoning")


def within_window(prices: ImportedPrices, tokens: int) -> ImportedPrices:
    """Returns the prices without those that apply only to longer prompts than a context window of `tokens` tokens."""

    def without_longer(of: Prices) -> Prices:
        return of.model_copy(update={"long_prompts": tuple(one for one in of.long_prompts if one.above < tokens)})

    tiers = {tier: without_longer(of) for tier, of in prices.service_tiers.items()}
    standard = without_longer(prices.usd_per_million_tokens)
    return replace(prices, usd_per_million_tokens=standard, service_tiers=tiers)


def _by_range(name: str, ranges: Any) -> dict[int, KindPrices]:
    """Converts `tiered_pricing`, a list of prices by `range` of the prompt's tokens, to prices by the range's lower
    bound.
    """
    found: dict[int, KindPrices] = {}
    end = 0
    if not isinstance(ranges, list) or not ranges:
        raise ConfigError(f"'{name}': tiered_pricing should be a list of prices with a range")
    for number, tier in enumerate(ranges, 1):
        bounds = tier.get("range") if isinstance(tier, dict) else None
        if not (isinstance(bounds, list) and len(bounds) == 2 and all(map(_is_finite, bounds))):
            raise ConfigError(f"'{name}': entry {number} of tiered_pricing needs a range [FROM, TO] of tokens")
        begin = int(bounds[0])
        if begin > end + 1 or begin < end or bounds[1] <= begin:
            raise ConfigError(
                f"'{name}': the ranges of tiered_pricing contradict each other: {bounds} follows one that ends at {end}"
            )
        kinds = {
            TOKEN_PRICES[field_name]: price
            for field_name, value in tier.items()
            if field_name in TOKEN_PRICES and (price := _price(name, field_name, value)) is not None
        }
        found[end] = kinds
        end = int(bounds[1])
    return found


def _is_finite(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def _price(name: str, field_name: str, value: Any) -> float | None:
    """Returns dollars per million tokens; None if the entry has null."""
    return None if value is None else round(_number(name, field_name, value) * 1e6, 9)


def _number(name: str, field_name: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"'{name}': {field_name} is {repr(value)[:40]}, and should be dollars for one token")
    if number < 0:
        raise ConfigError(f"'{name}': {field_name} is negative ({value})")
    return number


def _to_prices(name: str, by_length: dict[int, KindPrices]) -> Prices:
    """Returns the prices of a model or tier from the prices in `by_length`, by the least tokens of the prompt.

    A kind of token that lacks a price for some lengths is left out: its tokens then have no known price. Raises
    ConfigError if prompt or completion lack a price.
    """
    shorter: KindPrices = {}
    for above, prices in sorted(by_length.items()):
        missing = {"prompt", "completion"} - prices.keys()
        if len(missing) == 2:  # only a special kind depends on the length
            prices |= {kind: price for kind, price in shorter.items() if kind not in prices}
        elif missing:
            raise ConfigError(
                f"'{name}' has no price of the {min(missing)} above {above:,} tokens, and one of the other part"
            )
        prices.setdefault("cached", prices["prompt"])
        if "reasoning" in shorter:  # otherwise such tokens would have the completion's price, which may be lower
            prices.setdefault("reasoning", max(shorter["reasoning"], prices["completion"]))
        shorter = prices
    tables = _common_kinds(by_length)
    first, *longer = sorted(tables)
    differing = [above for before, above in pairwise((first, *longer)) if tables[above] != tables[before]]
    long_prompts = {"long_prompts": [{"above": above, **tables[above]} for above in differing]} if differing else {}
    try:
        return Prices.model_validate({**tables[first], **long_prompts})
    except ValidationError as error:
        raise ConfigError(f"'{name}': {error.errors()[0]['msg']}") from error


def _common_kinds(by_length: Mapping[int, KindPrices]) -> dict[int, KindPrices]:
    """Returns the prices of the kinds that have one for each length; `reasoning` only if it is not the completion's."""
    kinds = set.intersection(*(set(prices) for prices in by_length.values()))
    if all(prices.get("reasoning", prices["completion"]) == prices["completion"] for prices in by_length.values()):
        kinds.discard("reasoning")
    return {
        above: {kind: prices[kind] for kind in TOKEN_PRICES.values() if kind in kinds}
        for above, prices in by_length.items()
    }
