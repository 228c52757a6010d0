"""Exported decisions of several days, for the console."""

import json
from collections.abc import Iterable

from pointsman_gateway.domain.decision import DECISION_ID_PREFIX
from pointsman_gateway.request_log.export_log import DECISIONS

from tests.gateway.doubles.exports import NOON, ExportHarness, exported

DAY = 86_400.0


def decision_id(unix_seconds: float, number: int) -> str:
    """Returns an id as the router makes it."""
    return f"{DECISION_ID_PREFIX}{round(unix_seconds * 1000):011x}{number:012x}"


def record(unix_seconds: float, number: int, tenant: str = "") -> tuple[str, str]:
    """Returns the id and the exported record of a decision."""
    name = decision_id(unix_seconds, number)
    entry, _, _evidence_key = exported(name, unix_seconds).partition("\t")
    return name, json.dumps(json.loads(entry) | {"tenant": tenant})


def export(harness: ExportHarness, records: Iterable[str]) -> None:
    harness.log.append(DECISIONS, list(records))
    harness.log.close()
    harness.export()


def three_days(count: int, tenant: str = "", until: float = NOON) -> dict[str, str]:
    """Returns `count` records by id, evenly over the three days before `until`, the newest first."""
    return dict(record(until - number * 3 * DAY / count, number, tenant) for number in range(count))
