"""`pointsman reconcile`: reads exports and the request log, compares them, and reports the differences."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from fractions import Fraction
from pathlib import Path

from pointsman_gateway.config.field_types import ConfigError, must_be_known
from pointsman_gateway.config.load import Config
from pointsman_gateway.config.models_file import ModelsFile
from pointsman_gateway.request_log import redis_schema

from pointsman_lab.reconcile.across_groups import MAX_SHIFT_SECONDS
from pointsman_lab.reconcile.charges import Charge, charges_of
from pointsman_lab.reconcile.comparison import compare
from pointsman_lab.reconcile.days import Days
from pointsman_lab.reconcile.exports.registry import read_exports
from pointsman_lab.reconcile.own_engines import EngineHours, engine_hours
from pointsman_lab.reconcile.report import Compared, reconcile_report
from pointsman_lab.reconcile.selection import Selection, unknown_models
from pointsman_lab.report import Report
from pointsman_lab.request_log import RequestLog

STREAMS = (redis_schema.DECISIONS, redis_schema.UNDECIDED)
DEFAULT_TOLERANCE = Fraction(1, 100)

_LATE_SECONDS = 60
"""An entry of the request log may be written this many seconds after its answer ended."""


@dataclass(frozen=True, slots=True)
class ReconcileOrder:
    exports: Sequence[Path] = ()
    tolerance: Fraction = DEFAULT_TOLERANCE
    """An export and the receipts agree if their differences are at most this share of the larger total."""
    zone: tzinfo = UTC
    """The time zone of times in the exports that state no time zone."""
    selection: Selection = field(default_factory=Selection)
    paid_usd: Mapping[str, float] = field(default_factory=dict)
    """Name of an engine that the user operates -> dollars that the user paid for it."""
    since_seconds: float = 0.0
    """The period in seconds, up to now, for which the user's own engines are reported if there are no exports."""


async def reconcile(order: ReconcileOrder, config: Config, log: RequestLog) -> Report:
    """Compares providers' exports with the receipts in the request log, and returns a report on the differences and
    causes.

    Without exports, the report is on the costs of the user's own engines only. Raises ConfigError if an export cannot
    be read or `order` names an unknown engine, and Unavailable if Redis does not answer.
    """
    models, now = config.models, time.time()
    _check_names(order, models)
    exports = read_exports(order.exports, order.zone)
    days = [Days(export, now) for export in exports]
    complete_since = max([await log.complete_since(stream) for stream in STREAMS])
    left_out = [_left_out(of, complete_since) for of in days]
    begin = min((of.begin for of in days), default=max(complete_since, now - order.since_seconds))
    end = max((of.end for of in days), default=now)
    charges = [charge async for charge in _charges(log, begin, end, now)]
    names = order.selection.names(models)
    compared = []
    for export, of, notes in zip(exports, days, left_out, strict=True):
        chosen = order.selection.charges(charges, export, models)
        comparison = compare(export, chosen, of, names, order.tolerance)
        if any(task.shadow for task in config.tasks.tasks.values()):
            notes.append("shadow requests and judges are in no receipt, but in the export")
        compared.append(Compared(comparison, [*export.notes, *notes], unknown_models(export, names)))
    return reconcile_report(compared, _own_engines(order, models, charges, (begin, end)), order.tolerance)


def _check_names(order: ReconcileOrder, models: ModelsFile) -> None:
    known = {**models.engines, **models.called_once}
    for name in (*order.selection.engines, *filter(None, order.selection.keys.values())):
        must_be_known("unknown engine", name, known)
    for name in order.paid_usd:
        must_be_known("unknown engine", name, models.engines)
        if not models.engines[name].usd_per_hour:
            raise ConfigError(f"engine '{name}' has no usd_per_hour, with which the invoice could be compared")


def _left_out(days: Days, complete_since: float) -> list[str]:
    """Removes the days whose entries the request log does not have any more from `days`; returns sentences about
    them.
    """
    notes = [f"the day of {_day(day)} is not over: it is left out" for day in days.unfinished]
    earlier = days.since(complete_since)
    if earlier:
        notes.append(
            f"the request log begins on {_day(complete_since)}, and earlier entries were removed: {len(earlier)} days "
            "of the export are left out (request_log.max_decisions keeps more)"
        )
    return notes


async def _charges(log: RequestLog, begin: float, end: float, now: float) -> AsyncIterator[Charge]:
    """Yields the charges from `begin` to `end` (Unix seconds), and of some time before and after for other time
    zones.
    """
    begin, end = begin - MAX_SHIFT_SECONDS, end + MAX_SHIFT_SECONDS
    for stream in STREAMS:
        async for _, fields in log.entries(stream, max(0.0, now - begin) + _LATE_SECONDS):
            for charge in charges_of(fields["entry"]):
                if begin <= charge.ended < end:
                    yield charge


def _own_engines(
    order: ReconcileOrder, models: ModelsFile, charges: Sequence[Charge], period: tuple[float, float]
) -> list[EngineHours]:
    prices = {name: of.usd_per_hour for name, of in models.engines.items() if of.usd_per_hour}
    return engine_hours(charges, prices, period, order.paid_usd) if period[0] < period[1] else []


def _day(unix_seconds: float) -> str:
    return datetime.fromtimestamp(unix_seconds, UTC).date().isoformat()
