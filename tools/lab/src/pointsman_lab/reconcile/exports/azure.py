"""Reads what Azure charged for models of its OpenAI service from an export of Cost Management.

Sources: Microsoft Learn, "Understand cost details fields" (Cost Management); "Plan to manage costs for Azure OpenAI".
The name of a model in a meter is Azure's own, such as "gpt 4o 1120" in "gpt 4o 1120 Inp glbl Tokens".
"""

import re
from collections.abc import Iterator, Mapping
from datetime import tzinfo
from fractions import Fraction

from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.domain import PICODOLLARS

from pointsman_lab.reconcile.exports.lines import Export, Line, Number, exact, to_count, to_picodollars
from pointsman_lab.reconcile.exports.meter_words import MEANINGS, kind_of, tier_of
from pointsman_lab.reconcile.exports.tables import interval_of

PROVIDERS = ("azure", "azure-deployments", "litellm/azure", "litellm/azure_ai")
FORMAT = "Azure's cost export"
USAGE = "usage"
"""The value of `ChargeType` for usage; lines with other values are purchases, refunds and taxes."""

_DAYS = ("date", "usage_date_time", "usage_date")
_COSTS = (("cost_in_usd", ""), ("cost_in_billing_currency", "billing_currency"), ("cost", "billing_currency_code"),
          ("pre_tax_cost", "currency"))  # fmt: skip
"""Columns that may have the cost, each with the column of its currency; the first column that exists is used.

The currency of a column without a currency column is dollars.
"""
_UNIT = re.compile(r"(\d+(?:\.\d+)?)?\s*([km])?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1000, "m": 1_000_000}


def is_table(columns: list[str]) -> bool:
    names = {*columns}
    return {"meter_name", "quantity"} <= names and bool(names & {*_DAYS}) and any(cost in names for cost, _ in _COSTS)


def read_table(rows: Iterator[tuple[int, Mapping[str, str]]], where: str, zone: tzinfo) -> list[Export]:
    """Reads a cost export of Azure; returns a list with one `Export`.

    Each of `rows` is the number of a line and its values by column, whose names are converted by `plain_name`. `where`
    names the file in error messages. `zone` is the time zone of times that state none. Raises ConfigError if a value is
    invalid.
    """
    lines: list[Line] = []
    left_out: dict[str, Number] = {}
    for number, row in rows:
        at, meter = f"{where}, line {number}", row["meter_name"]
        if not _is_of_models(row):
            continue
        cost = _cost(row, at)
        kind = kind_of(meter)
        if kind is None or row.get("charge_type", USAGE).lower() not in ("", USAGE):
            name = meter if kind is None else row["charge_type"]
            left_out[name] = left_out.get(name, 0) + cost
            continue
        day = next(row[name] for name in _DAYS if name in row)
        count = exact(to_count(row["quantity"], f"{at}: Quantity") * _unit(row.get("unit_of_measure", ""), meter, at))
        interval = interval_of(day, "", zone, at)
        lines.append(Line(*interval, _model(meter), kind, count, cost, _resource(row), tier_of(meter)))
    kinds = {line.kind for line in lines} | {"prompt", "completion"}
    notes = [f"left out {name}: ${float(cost) / PICODOLLARS:.4f}" for name, cost in left_out.items() if cost]
    return [Export(FORMAT, PROVIDERS, lines, kinds, notes)]


def _is_of_models(row: Mapping[str, str]) -> bool:
    """Returns whether a row is about a model; the export has rows for all services of a subscription."""
    category = f"{row.get('meter_category', '')} {row.get('meter_sub_category', '')}".lower()
    of_service = any(name in category for name in ("openai", "foundry models", "cognitive services", "azure ai"))
    return of_service and "token" in f"{row['meter_name']} {row.get('unit_of_measure', '')}".lower()


def _cost(row: Mapping[str, str], where: str) -> Number:
    for name, currency in _COSTS:
        if row.get(name):
            return to_picodollars(row[name], row.get(currency) if currency else "USD", f"{where}: {name}")
    raise ConfigError(f"{where} has no cost: all columns of costs are empty")


def _unit(measure: str, meter: str, where: str) -> Fraction:
    """Returns the tokens of one unit of the quantity: 1000 for "1K"; the meter's name may say it too ("1M Tokens")."""
    match = _UNIT.match(measure.strip())
    if match is not None and (match[1] or match[2]):
        return Fraction(match[1] or 1) * _UNITS[(match[2] or "").lower()]
    in_name = re.search(r"\b1([KM]) Tokens\b", meter, re.IGNORECASE)
    if in_name is None:
        raise ConfigError(f"{where}: UnitOfMeasure is '{measure[:40]}', and should be such as 1K or 1M")
    return Fraction(_UNITS[in_name[1].lower()])


def _model(meter: str) -> str:
    """Returns the model's name in a meter's name: the words that name neither kind, nor tier, nor deployment."""
    meanings = MEANINGS | {"1k", "1m"}
    return " ".join([word for word in re.split(r"[\s-]+", meter) if word.lower() not in meanings])


def _resource(row: Mapping[str, str]) -> str | None:
    """Returns the name of the Azure resource that was charged, by which the user maps keys; None if it is not
    stated.
    """
    found = row.get("resource_name") or row.get("resource_id") or row.get("instance_name") or row.get("instance_id")
    return found.rstrip("/").rsplit("/", 1)[-1] if found else None
