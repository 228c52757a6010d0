"""Compares the prices of a configuration's models with LiteLLM's, and writes the new ones."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from pointsman_gateway.config.example_files import read_text
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import single_file
from pointsman_gateway.config.token_prices import TokenPrices
from pointsman_servicekit import strict_yaml

from pointsman_lab.prices.litellm_table import ImportedPrices, read_table, to_prices, within_window
from pointsman_lab.prices.models_edit import check_edit, with_keys
from pointsman_lab.prices.present import (
    Flat,
    candidate_entries,
    checked_model,
    find_entry,
    flat,
    present_prices,
    today,
)
from pointsman_lab.report import Report, Section

MODELS_FILE = "models.yaml"
NOT_IMPORTED = (
    "A request with such a tier, tokens or searches in its usage has an unknown cost, unless models.yaml has its "
    "price; charges that no usage counts are not in its cost."
)


@dataclass(frozen=True, slots=True)
class ImportOrder:
    """The options of the price import: the price table, the models, the configuration, and whether to change it."""

    folder: Path
    """The configuration's folder or file."""
    source: str
    """The price table: a file, or "litellm" for the table of the installed package."""
    models: tuple[str, ...] = ()
    """The names of the models whose prices are compared; empty for all."""
    starting: date | None = None
    """The day (UTC) from which on the new prices apply; None for now."""
    write: bool = False
    """Whether to write the new prices into the configuration."""


@dataclass
class _Comparison:
    """The results of a comparison for the models of a configuration, each by the model's name."""

    changed: dict[str, tuple[Flat, Flat, ImportedPrices]] = field(default_factory=dict)
    """Models whose prices differ, with (present prices, LiteLLM's prices, LiteLLM's prices in the form of
    models.yaml).
    """
    same: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    """Models without prices in LiteLLM's table, with the reason."""
    not_imported: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """LiteLLM's names of the prices of a model that cannot be imported."""
    problems: dict[str, str] = field(default_factory=dict)
    """Why a model's entry is invalid, or why its prices cannot be written."""


def import_prices(order: ImportOrder) -> Report:
    """Compares LiteLLM's prices with the present ones of the models; writes them to the models file if `order.write`.

    Raises ConfigError if the table or the configuration cannot be read, a named model is unknown, or the file cannot be
    changed without changing something else; OSError if the file cannot be written.
    """
    file = single_file(order.folder) or order.folder / MODELS_FILE
    text = read_text(file)
    content = _parsed(file, text)
    unknown = [name for name in order.models if name not in content["models"]]
    if unknown:
        raise ConfigError(f"{file} has no model '{unknown[0]}'; it has: {', '.join(content['models'])}")
    comparison, table = _Comparison(), read_table(order.source)
    for name in order.models or content["models"]:
        _compare(comparison, name, content, table, order.starting)
    is_written = order.write and bool(comparison.changed)
    if is_written:
        keys = {name: _keys(content, name, new, order.starting) for name, (_, _, new) in comparison.changed.items()}
        top = {} if order.starting else {"prices_as_of": today()}
        edited = with_keys(text, keys, top)
        check_edit(text, edited, keys, top)
        _replace(file, edited)
    return _report(comparison, file, order, is_written)


def _parsed(file: Path, text: str) -> dict[str, Any]:
    try:
        content = strict_yaml.load(text, os.environ, unset="")
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not YAML: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("models"), dict):
        raise ConfigError(f"{file} has no models")
    wrong = next((name for name, of in content["models"].items() if not isinstance(of, dict | None)), None)
    if wrong is not None:
        raise ConfigError(f"{file}: model '{wrong}' is no mapping: write its keys, or nothing")
    engines = content.get("engines")
    if not isinstance(engines, dict) or not all(isinstance(one, dict) for one in engines.values()):
        raise ConfigError(f"{file} has no engines, which say whose prices a model has")
    return content


def _compare(
    found: _Comparison, name: str, content: Mapping[str, Any], table: Mapping[str, Any], starting: date | None
) -> None:
    candidates = list(candidate_entries(name, content))
    if not candidates:
        found.missing[name] = "no engine of it is a provider's that LiteLLM lists"
        return
    entries = [key for keys in candidates for key in [find_entry(keys, table)] if key]
    if not entries:
        tried = ", ".join(dict.fromkeys(key for keys in candidates for key, _ in keys))
        found.missing[name] = f"the table has none of: {tried}"
        return
    written = content["models"][name] or {}
    try:
        imported = [to_prices(key, table[key]) for key in dict.fromkeys(entries)]
        present = present_prices(name, content, starting or today())
        new = within_window(imported[0], written.get("context_window") or sys.maxsize)
        checked_model(name, {**written, **_keys(content, name, new, starting)})
    except ConfigError as error:
        found.problems[name] = str(error)
        return
    if new.not_imported:
        found.not_imported[name] = new.not_imported
    if any(flat(one) != flat(imported[0]) for one in imported[1:]):
        found.problems[name] = f"its providers' prices differ ({', '.join(dict.fromkeys(entries))}): write one of them"
    elif flat(new).items() <= present.items() and not _lost(present, new):
        found.same.append(name)
    elif written.get("price_changes") and not starting:
        found.problems[name] = "it has price_changes: name the day of the new prices with --starting"
    else:
        found.changed[name] = (present, flat(new), new)


def _lost(present: Flat, new: ImportedPrices) -> list[str]:
    """Returns the present prices that the new ones would drop. Service tiers that the table lacks are kept."""
    tiers = tuple(f"{tier}: " for tier in new.service_tiers)
    later = flat(new)
    return [
        name
        for name in present
        if name not in later and name != "request" and (": " not in name or name.startswith(tiers))
    ]


def _keys(content: Mapping[str, Any], name: str, new: ImportedPrices, starting: date | None) -> dict[str, Any]:
    """Returns the keys and values to write for a model in models.yaml."""
    written = content["models"][name] or {}
    own_tiers = written.get("service_tiers") or {}
    tiers = own_tiers | {tier: _as_keys(prices) for tier, prices in new.service_tiers.items()}
    keys: dict[str, Any] = {"usd_per_million_tokens": _as_keys(new.usd_per_million_tokens)}
    if tiers:
        keys["service_tiers"] = tiers
    if new.usd_per_request:
        keys["usd_per_request"] = new.usd_per_request
    if starting is None:
        return keys
    earlier = [change for change in written.get("price_changes") or () if change.get("starting") != starting]
    return {"price_changes": sorted([*earlier, {"starting": starting, **keys}], key=lambda change: change["starting"])}


def _as_keys(prices: TokenPrices) -> dict[str, Any]:
    longer = getattr(prices, "long_prompts", ())
    return {
        **prices.by_kind,
        **({"long_prompts": [{"above": one.above, **one.by_kind} for one in longer]} if longer else {}),
    }


def _replace(file: Path, text: str) -> None:
    """Writes the file atomically, with the permissions that it had."""
    new = file.with_name(f".{file.name}.new")
    try:
        new.write_text(text, "utf-8")
        new.chmod(file.stat().st_mode & 0o777)
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)


def _report(found: _Comparison, file: Path, order: ImportOrder, is_written: bool) -> Report:
    rows = [
        (name, what, _dollars(present.get(what)), _dollars(new.get(what)), _change(present.get(what), new.get(what)))
        for name, (present, new, imported) in found.changed.items()
        for what in dict.fromkeys([*new, *_lost(present, imported)])
        if present.get(what) != new.get(what)
    ]
    page = []
    if rows:
        columns = ("model", "dollars per million", "present", "LiteLLM", "change")
        page.append(Section("Other prices", (), columns, tuple(rows)))
    if found.same:
        page.append(Section("The same prices", (", ".join(found.same),)))
    for heading, of in (("Not in the table", found.missing), ("Not imported", found.problems)):
        if of:
            page.append(Section(heading, (), ("model", "why"), tuple(of.items())))
    if found.not_imported:
        kinds = tuple((name, one) for name, names in found.not_imported.items() for one in names)
        page.append(Section("Prices that are not imported", (NOT_IMPORTED,), ("model", "not imported"), kinds))
    page.append(Section(_outcome(found, file, order, is_written)))
    facts = {
        "changed": {name: {"present": present, "new": new} for name, (present, new, _) in found.changed.items()},
        "same": found.same,
        "missing": found.missing,
        "problems": found.problems,
        "not_imported": {name: list(names) for name, names in found.not_imported.items()},
        "written": str(file) if is_written else "",
    }
    problem = next(iter(found.problems.items()), None)
    return Report(facts, tuple(page), f"model '{problem[0]}' is not imported: {problem[1]}" if problem else "")


def _outcome(found: _Comparison, file: Path, order: ImportOrder, is_written: bool) -> str:
    if not found.changed:
        return "Nothing to write"
    if is_written:
        when = f", from {order.starting} on" if order.starting else ""
        return f"{file} has the new prices{when}; the running gateway takes them within seconds"
    return f"{file} is unchanged; --write writes the prices"


def _dollars(price: float | None) -> str:
    return "-" if price is None else f"{price:.6f}".rstrip("0").rstrip(".")


def _change(present: float | None, new: float | None) -> str:
    if present is None or new is None:
        return "new" if present is None else "removed"
    return f"{new / present - 1:+.0%}" if present else "was free"
