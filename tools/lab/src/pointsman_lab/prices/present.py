"""Finds the present prices of a configuration's models, and the entries of these models in LiteLLM's price table."""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from typing import Any

from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.models_file import ModelConfig
from pointsman_gateway.config.providers import find_price, preset_of, provider_at
from pointsman_gateway.config.token_prices import Prices
from pointsman_servicekit.prices import PricedModel
from pydantic import ValidationError

from pointsman_lab.litellm_advice import PROVIDERS
from pointsman_lab.prices.litellm_table import ImportedPrices

Flat = dict[str, float]
"""Prices in dollars, by a text that names the kind of token and the condition: "prompt above 200,000", "flex:
cached".
"""


def today() -> date:
    return datetime.now(UTC).date()


def candidate_entries(name: str, content: Mapping[str, Any]) -> Iterator[list[tuple[str, str]]]:
    """Yields, for each engine of the model `name`, the keys that it may have in LiteLLM's table, the likeliest first.

    Each key comes with LiteLLM's name of the provider. `content` is the configuration with `models` and `engines`.
    Engines whose provider LiteLLM does not know are left out.
    """
    upstream = (content["models"][name] or {}).get("upstream")
    for engine in content["engines"].values():
        if engine.get("model") != name:
            continue
        provider = engine.get("provider") or provider_at(str(engine.get("url") or ""))
        names = dict.fromkeys(str(one) for one in (engine.get("upstream"), upstream, name) if one)
        keys = [(key, prefix) for prefix in _prefixes(provider) for one in names for key in (f"{prefix}/{one}", one)]
        if keys:
            yield keys


def _prefixes(provider: str) -> list[str]:
    """Returns LiteLLM's names of a provider; the name under which the provider's prices are listed comes last."""
    ours, slash, theirs = provider.partition("/")
    if slash:
        return [theirs]
    try:
        preset = preset_of(ours)
    except KeyError:
        return []
    if not preset.key_env:  # an engine of one's own
        return []
    known = {**{prefix: of for prefix, (of, _) in PROVIDERS.items()}, "bedrock": "bedrock"}
    of_it = ours.removesuffix("-deployments")
    return [prefix for name in (of_it, preset.price_list) if name for prefix, of in known.items() if of == name]


def find_entry(keys: list[tuple[str, str]], table: Mapping[str, Any]) -> str:
    """Returns the first key that is in LiteLLM's table, with the same provider; empty if there is none.

    `keys` are pairs of a key and a provider, as `candidate_entries` yields them.
    """
    for key, provider in keys:
        owner = str(table.get(key, {}).get("litellm_provider", ""))
        if key in table and (owner == provider or owner.startswith(f"{provider}_")):
            return key
    return ""


def present_prices(name: str, content: Mapping[str, Any], day: date) -> Flat:
    """Returns the prices of the model `name` on a day, from the configuration or, if it states none, from the price
    list.

    `content` is the configuration with `models` and `engines`. The result is empty if the prices are unknown. Raises
    ConfigError if the model's keys are invalid.
    """
    written = content["models"][name] or {}
    if "usd_per_million_tokens" not in written and (listed := _listed_price(name, written, content)) is not None:
        prices = {"prompt": listed.prompt, "cached": listed.cached, "completion": listed.completion}
        further = dict(listed.further)
        tiers = {"service_tiers": further.pop("service_tiers", {})}
        written = {**tiers, **written, "usd_per_million_tokens": {**prices, **further}}
    model = checked_model(name, written).priced_on(day)
    if model.usd_per_million_tokens is None:
        return {}
    return flat(ImportedPrices(name, model.usd_per_million_tokens, model.service_tiers, model.usd_per_request))


def _listed_price(name: str, written: Mapping[str, Any], content: Mapping[str, Any]) -> PricedModel | None:
    """Returns the price list's entry of a model; None if it has none, or the providers of its engines differ."""
    found = set()
    for engine in content["engines"].values():
        if engine.get("model") == name:
            upstream = engine.get("upstream") or written.get("upstream") or name
            provider = engine.get("provider") or provider_at(str(engine.get("url") or ""))
            found.add(find_price(provider, (str(upstream), name)))
    return found.pop() if len(found) == 1 else None


def checked_model(name: str, keys: Mapping[str, Any]) -> ModelConfig:
    """Validates the settings `keys` of the model `name`, as in models.yaml, and returns them as a ModelConfig.

    Raises ConfigError if the settings are invalid.
    """
    try:
        return ModelConfig.model_validate(keys)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, (f"models.{name}", *problem["loc"])))
        raise ConfigError(f"{where}: {problem['msg'].removeprefix('Value error, ')}") from error


def flat(prices: ImportedPrices) -> Flat:
    found = {**_flat_prices("", prices.usd_per_million_tokens)}
    for tier, of in prices.service_tiers.items():
        found |= _flat_prices(f"{tier}: ", of)
    return found | ({"request": prices.usd_per_request} if prices.usd_per_request else {})


def _flat_prices(prefix: str, prices: Prices) -> Flat:
    found = {f"{prefix}{kind}": price for kind, price in prices.by_kind.items()}
    for longer in prices.long_prompts:
        found |= {f"{prefix}{kind} above {longer.above:,}": price for kind, price in longer.by_kind.items()}
    return found
