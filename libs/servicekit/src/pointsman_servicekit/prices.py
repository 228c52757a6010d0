"""Looks up the list prices of providers' models in prices.yaml."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from typing import Any

import yaml

from pointsman_servicekit.errors import NotFound


@dataclass(frozen=True, slots=True)
class PricedModel:
    """A model's context window in tokens and its prices in dollars, from prices.yaml."""

    context_window: int
    prompt: float
    """Dollars per million tokens, as are `cached` (for the cached part of a prompt) and `completion`."""
    cached: float
    completion: float
    image: float = 0.0
    """Dollars for each image of a request, in addition to its tokens."""
    further: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Prices of other kinds of tokens, of long prompts and of service tiers, in the form of models.yaml."""


@lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    table: dict[str, Any] = yaml.safe_load(files(__package__).joinpath("prices.yaml").read_text("utf-8"))
    return table


def _entry(price_list: str, name: str) -> PricedModel:
    table = _table()
    further = table["further"].get(price_list, {}).get(name, {})
    return replace(PricedModel(*table["models"][price_list][name]), further=further)


def prices_as_of() -> date:
    """Returns the date on which the prices were last checked."""
    day: date = _table()["as_of"]
    return day


def find_price(price_list: str, names: Iterable[str]) -> PricedModel | None:
    """Returns the entry of the first of the models `names` that `price_list` has, or None if it has none of them.

    `price_list` is a provider's name in prices.yaml, such as "openai"; an unknown one has no models.
    """
    models = _table()["models"].get(price_list, {})
    return next((_entry(price_list, name) for name in names if name in models), None)


def named_price(name: str) -> PricedModel:
    """Returns the entry of a model, named as MODEL or PROVIDER/MODEL.

    Raises NotFound ("unknown_model") if no provider lists the model, or if several list it with different entries.
    """
    lists: dict[str, dict[str, Any]] = _table()["models"]
    found = {
        provider: _entry(provider, model)
        for provider, models in lists.items()
        for model in (name, name.removeprefix(f"{provider}/"))
        if model in models
    }
    if not found:
        known = [model for models in lists.values() for model in models]
        near = ", ".join(get_close_matches(name, known, n=4)) or ", ".join(sorted(known)[:8])
        raise NotFound(f"the price list has no model '{name[:100]}'; similar: {near}", code="unknown_model")
    if len(set(found.values())) > 1:
        choices = ", ".join(f"{provider}/{name}" for provider in found)
        raise NotFound(f"'{name}' is listed at different prices; name one of {choices}", code="unknown_model")
    return next(iter(found.values()))
