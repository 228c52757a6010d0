"""Reads what AWS charged for Bedrock from a cost and usage report (CUR 2.0 or the legacy one).

Sources: AWS Data Exports user guide, "Cost and Usage Report (CUR) 2.0"; Amazon Bedrock user guide, "Understanding your
Amazon Bedrock Cost and Usage Report data". Models of the marketplace are billed by units of their own usage types.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import tzinfo

from pointsman_gateway.config.field_types import ConfigError

from pointsman_lab.reconcile.exports.lines import Export, Line, Number, exact, to_count, to_picodollars
from pointsman_lab.reconcile.exports.meter_words import kind_of, tier_of
from pointsman_lab.reconcile.exports.tables import interval_of

PROVIDERS = ("bedrock", "litellm/bedrock")
FORMAT = "AWS's cost and usage report"
REQUIRED = {
    "line_item_usage_start_date", "line_item_usage_type", "line_item_usage_amount", "line_item_unblended_cost",
    "line_item_currency_code",
}  # fmt: skip
CHARGES = ("Usage", "DiscountedUsage", "SavingsPlanCoveredUsage")
"""The values of `line_item_line_item_type` for usage; lines with other values are taxes, credits and fees."""

_REGION = re.compile(r"^(?:[A-Z]{2,4}\d+|us|eu|ap|apac|global)[-:]")
_TOKENS = re.compile(
    r"^(?P<model>.+?)[-_](?:mantle-)?(?P<kind>(?:cache-(?:read|write)-)?(?:input|output)-token(?:s|-count)"
    r"|(?:Cache(?:Read|Write))?(?:Input|Output)TokenCount)(?P<rest>.*)$"
)
_MARKETPLACE = re.compile(
    r"^(?:MP:)?(?:[A-Z0-9]+_)?(?P<kind>(?:Cache(?:Read|Write))?(?:Input|Output)TokenCount)(?P<rest>.*)$"
)
_UNITS = {None: 1, "k": 1000, "thousand": 1000, "m": 1_000_000, "million": 1_000_000}


def is_table(columns: list[str]) -> bool:
    return {*columns} >= REQUIRED


def read_table(rows: Iterator[tuple[int, Mapping[str, str]]], where: str, zone: tzinfo) -> list[Export]:
    """Reads a cost and usage report of AWS; returns a list with one `Export`.

    Each of `rows` is the number of a line and its values by column, whose names are converted by `plain_name`. `where`
    names the file in error messages. `zone` is the time zone of times that state none. Raises ConfigError if a value is
    invalid.
    """
    lines: list[Line] = []
    left_out: dict[str, Number] = {}
    for number, row in rows:
        at = f"{where}, line {number}"
        usage_type = row["line_item_usage_type"]
        found = _charged(usage_type, row)
        kind_of_charge = row.get("line_item_line_item_type", "") or CHARGES[0]
        if found is None or kind_of_charge not in CHARGES:
            if found is not None or "bedrock" in row.get("line_item_product_code", "").lower():
                cost = to_picodollars(row["line_item_unblended_cost"], row["line_item_currency_code"], at)
                name = usage_type if kind_of_charge in CHARGES else kind_of_charge
                left_out[name] = left_out.get(name, 0) + cost
            continue
        model, kind, tier = found
        begin, end = row["line_item_usage_start_date"], row.get("line_item_usage_end_date", "")
        lines.append(
            Line(
                *interval_of(begin, end, zone, at),
                model,
                kind,
                exact(to_count(row["line_item_usage_amount"], f"{at}: line_item_usage_amount") * _unit(row, at)),
                to_picodollars(row["line_item_unblended_cost"], row["line_item_currency_code"], at),
                row.get("line_item_iam_principal") or row.get("line_item_resource_id") or None,
                tier,
            )
        )
    kinds = {line.kind for line in lines} | {"prompt", "completion"}
    notes = [f"left out {name or 'a charge without a usage type'}: ${float(cost) / 1e12:.4f}"
             for name, cost in left_out.items() if cost]  # fmt: skip
    return [Export(FORMAT, PROVIDERS, lines, kinds, notes)]


def _charged(usage_type: str, row: Mapping[str, str]) -> tuple[str, str, str] | None:
    """Returns model, kind and service tier of a usage type; None if it counts no tokens."""
    plain = _REGION.sub("", usage_type)
    match = _MARKETPLACE.match(plain)
    if match is not None:
        name = row.get("product_product_name") or row.get("product_model") or row.get("line_item_product_code", "")
        model = re.sub(r"\s*\(.*\)$", "", name)
    else:
        match = _TOKENS.match(plain)
        if match is None:
            return None
        model = match["model"]
    kind = kind_of(match["kind"])
    return None if kind is None else (model, kind, tier_of(match["rest"]))


def _unit(row: Mapping[str, str], where: str) -> int:
    """Returns how many tokens one unit is, such as 1000 for "1K tokens".

    For models of the marketplace, the number is read from the description of the line.
    """
    written, description = row.get("pricing_unit", ""), row.get("line_item_line_item_description", "")
    match = re.search(r"\b(\d*)\s*(k|m|million|thousand)?\s*(?:input |output )?tokens?\b", written.lower())
    if match is None:
        match = re.search(r"\b(\d*)\s*(k|m|million|thousand)\b[a-z ]*tokens?\b", description.lower())
    if match is None:
        raise ConfigError(
            f"{where}: neither pricing_unit ('{written[:40]}') nor the description says how many tokens a unit has, "
            "such as '1K tokens'"
        )
    return int(match[1] or 1) * _UNITS[match[2]]
