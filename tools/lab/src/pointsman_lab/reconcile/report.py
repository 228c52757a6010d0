"""The report of `pointsman reconcile`: totals, a table of differences with their causes, and the user's own engines."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

from pointsman_gateway.domain import PICODOLLARS

from pointsman_lab.reconcile.causes import Difference
from pointsman_lab.reconcile.comparison import Comparison, Totals
from pointsman_lab.reconcile.exports.lines import SECONDS_PER_DAY, Number
from pointsman_lab.reconcile.own_engines import EngineHours
from pointsman_lab.report import Report, Section, to_cell

MAX_ROWS = 40
"""The maximum number of differences in the table; `--json` has all of them."""
MAX_NAMES = 8

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """The comparison of one export with the receipts, with notes and unknown models for the report."""

    comparison: Comparison
    notes: Sequence[str]
    """Sentences for the report on lines and days that were left out."""
    unknown_models: Sequence[str]
    """The export's names of models that the configuration does not have."""


def reconcile_report(compared: Sequence[Compared], engines: Sequence[EngineHours], tolerance: Fraction) -> Report:
    page = [_section(one) for one in compared]
    if engines:
        page.append(_engines_section(engines))
    if not page:
        page.append(Section("Nothing to compare", ("name an export; no engine of the configuration has usd_per_hour",)))
    facts = {
        "tolerance": float(tolerance),
        "exports": [_facts(one) for one in compared],
        "engines": [_engine_facts(one) for one in engines],
    }
    return Report(facts, tuple(page), _failure(compared, engines, tolerance))


def _failure(compared: Sequence[Compared], engines: Sequence[EngineHours], tolerance: Fraction) -> str:
    for one in compared:
        if not one.comparison.days:
            return f"{one.comparison.export.format}: no day of it can be compared; {'; '.join(one.notes)}"
        if one.comparison.share > tolerance:
            return (
                f"{one.comparison.export.format} and the receipts differ by {_percent(one.comparison.share)}, more "
                f"than {_percent(tolerance)}; first cause: {one.comparison.first_cause}"
            )
    for engine in engines:
        if engine.share > tolerance:
            return f"engine '{engine.engine}' was {engine.cause}: {_percent(Fraction(engine.share))} difference"
    return ""


# -- exports


def _section(one: Compared) -> Section:
    found, export = one.comparison, one.comparison.export
    lines = []
    if found.tokens is not None:
        lines.append(_totals_line("tokens", found.tokens, _count))
    if found.dollars is not None:
        lines.append(_totals_line("dollars", found.dollars, _dollars))
    if found.first_cause:
        lines.append(f"first cause: {found.first_cause}")
    lines += one.notes
    if one.unknown_models:
        shown = ", ".join(f"'{to_cell(name)}'" for name in one.unknown_models[:MAX_NAMES])
        more = f" and {len(one.unknown_models) - MAX_NAMES} more" if len(one.unknown_models) > MAX_NAMES else ""
        lines.append(
            f"not in the configuration: {shown}{more}; --model NAME=MODEL if a model has another name there, "
            "--model NAME= if it belongs to something else"
        )
    rows = [_row(difference) for difference in found.differences[:MAX_ROWS]]
    if len(found.differences) > MAX_ROWS:
        lines.append(f"the table has the largest {MAX_ROWS} of {len(found.differences)} differences; --json has all")
    columns, rows = _used(("model", "day", "key", "tier", "kind", "export", "receipts", "difference", "cause"), rows)
    heading = f"{export.format}, {found.days} days: " + ("differences" if rows else "no difference")
    return Section(heading, tuple(lines), columns, tuple(rows))


def _totals_line(what: str, totals: Totals, show: Any) -> str:
    estimated = f", of which {show(totals.estimated)} are estimated" if totals.estimated else ""
    return (
        f"{what}: {show(totals.exported)} in the export, {show(totals.received)} in the receipts{estimated}; "
        f"differences {show(totals.differing)} ({_percent(totals.share)})"
    )


def _row(one: Difference) -> Row:
    show = _dollars if one.in_dollars else _count
    signed = f"{'+' if one.exported > one.received else '-'}{show(one.size)}"
    group = one.group
    numbers = (show(one.exported), show(one.received), signed)
    return (to_cell(group.model), day_of(group.day), group.key, group.tier, one.kind, *numbers, to_cell(one.cause))


def _used(columns: Row, rows: Sequence[Row]) -> tuple[Row, list[Row]]:
    """Returns columns and rows without the columns that are empty in every row."""
    kept = [at for at, column in enumerate(columns) if any(row[at] for row in rows)]
    return tuple(columns[at] for at in kept), [tuple(row[at] for at in kept) for row in rows]


def _facts(one: Compared) -> dict[str, Any]:
    found = one.comparison
    return {
        "export": found.export.format,
        "days": found.days,
        "tokens": _totals_facts(found.tokens, 1),
        "usd": _totals_facts(found.dollars, PICODOLLARS),
        "share": float(found.share),
        "first_cause": found.first_cause,
        "notes": list(one.notes),
        "unknown_models": list(one.unknown_models),
        "differences": list(_difference_facts(found.differences)),
    }


def _totals_facts(totals: Totals | None, unit: int) -> dict[str, float] | None:
    if totals is None:
        return None
    named = {name: getattr(totals, name) for name in ("exported", "received", "estimated", "differing")}
    return {name: float(number / unit) for name, number in named.items()}


def _difference_facts(differences: Sequence[Difference]) -> Iterator[dict[str, Any]]:
    for one in differences:
        unit = PICODOLLARS if one.in_dollars else 1
        yield {
            "model": one.group.model,
            "day": day_of(one.group.day),
            "key": one.group.key,
            "tier": one.group.tier,
            "kind": one.kind,
            "unit": "usd" if one.in_dollars else "requests" if one.kind == "requests" else "tokens",
            "exported": float(one.exported / unit),
            "received": float(one.received / unit),
            "cause": one.cause,
        }


# -- engines of one's own


def _engines_section(engines: Sequence[EngineHours]) -> Section:
    columns = ("engine", "hours", "price", "dollars", "paid", "utilization", "tokens", "$ per million tokens", "cause")
    rows = [
        (
            one.engine if one.members == 1 else f"{one.engine} ({one.members} engines)",
            f"{one.hours:.1f}",
            f"${one.usd_per_hour:g}",
            f"${one.usd:.2f}",
            "" if one.paid_usd is None else f"${one.paid_usd:.2f}",
            f"{one.utilization:.1%}",
            f"{one.tokens:,}",
            "-" if one.usd_per_million_tokens is None else f"${one.usd_per_million_tokens:.4g}",
            one.cause,
        )
        for one in engines
    ]
    kept_columns, kept = _used(columns, rows)
    return Section("Engines of your own", (), kept_columns, tuple(kept))


def _engine_facts(one: EngineHours) -> dict[str, Any]:
    return {
        "engine": one.engine,
        "members": one.members,
        "hours": one.hours,
        "busy_hours": one.busy_hours,
        "utilization": one.utilization,
        "tokens": one.tokens,
        "usd": one.usd,
        "paid_usd": one.paid_usd,
        "usd_per_million_tokens": one.usd_per_million_tokens,
        "cause": one.cause,
    }


# -- numbers


def day_of(unix_seconds: float) -> str:
    """Formats the beginning of a day in UTC: as YYYY-MM-DD, with the time if it is not midnight."""
    moment = datetime.fromtimestamp(unix_seconds, UTC)
    if unix_seconds % SECONDS_PER_DAY == 0:
        return moment.date().isoformat()
    return moment.strftime("%Y-%m-%d %H:%M")


def _count(number: Number) -> str:
    return f"{int(number):,}" if number == int(number) else f"{float(number):,.2f}"


def _dollars(picodollars: Number) -> str:
    usd = abs(float(picodollars / PICODOLLARS))
    sign = "-" if picodollars < 0 else ""
    return sign + (f"${usd:,.2f}" if usd >= 100 else f"${usd:,.4f}" if usd >= 0.01 or not usd else f"${usd:.6f}")


def _percent(share: Fraction) -> str:
    return f"{float(share) * 100:.3g} %"
