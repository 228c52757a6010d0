"""The result of a swap test, as JSON and as a table."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from pointsman_cli.conformance.findings import SCALE, Findings, Grade
from pointsman_cli.conformance.plan import SwapPlan
from pointsman_cli.options import plain_table, table_console

_STYLES = {Grade.PASS: "green", Grade.WEAK: "yellow", Grade.FAIL: "red", Grade.UNTESTED: "dim"}


def as_document(
    plan: SwapPlan, findings: Findings, server: Mapping[str, Any], requests: int, started: float
) -> dict[str, Any]:
    """Returns the result of a swap test as `--json` prints it.

    `server` is the answer of the engine's /version, `requests` the number of requests sent, and `started` the start of
    the test in seconds of `time.monotonic`.
    """
    return {
        "test": "swap",
        "pointsman": version("pointsman"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "against": plan.url,
        "control": plan.control,
        "base_model": plan.base_model,
        "server": dict(server),
        "overall": str(findings.overall),
        "scale": {str(grade): text for grade, text in SCALE.items()},
        "properties": findings.as_json(),
        "not_carried_out": [{"check": check, "why": why} for check, why in findings.not_done.items()],
        "requests": requests,
        "seconds": round(time.monotonic() - started, 1),
        "load": {"seconds": plan.load_seconds, "concurrency": plan.concurrency},
        "harmful": plan.harmful,
        "notes": findings.notes,
    }


def print_table(document: Mapping[str, Any]) -> None:
    """Prints the result of a swap test (`as_document`): verdicts on properties, examples, omissions and notes."""
    console = table_console()
    table = plain_table("property", "verdict", right=("observed", "failed", "weak", "wrong tokens"))
    table.add_column("statement", overflow="fold")
    for each in document["properties"]:
        numbers = [str(each[name]) for name in ("observed", "failed", "weak", "wrong_tokens")]
        verdict = f"[{_STYLES[Grade(each['verdict'])]}]{each['verdict']}[/]"
        table.add_row(each["property"], verdict, *numbers, each["statement"])
    console.print(table)
    for each in document["properties"]:
        _print_lines(each["property"], each["examples"] or list(filter(None, [each["why_untested"]])))
    _print_lines("not carried out", [f"{each['check']}: {each['why']}" for each in document["not_carried_out"]])
    _print_lines("note", document["notes"])
    _print_lines("scale", [f"{grade}: {text}" for grade, text in document["scale"].items()])
    console.print(
        f"overall: {document['overall']}; {document['requests']} requests in {document['seconds']:g} s", markup=False
    )


def _print_lines(name: str, texts: Sequence[str]) -> None:
    console = table_console()
    for text in texts:
        console.print(f"{name}: {text}", markup=False, soft_wrap=True)
