"""What a data set holds, as a report."""

from collections.abc import Mapping
from typing import Any

from pointsman_gateway.workbench.datasets.writing import Written
from pointsman_gateway.workbench.report import Report, Section


def data_report(written: Written) -> Report:
    manifest = written.manifest
    facts = {"folder": str(written.folder), "new": written.is_new, "manifest": dict(manifest)}
    counts = manifest["counts"]
    lines = [
        f"{written.folder}" + ("" if written.is_new else ", as it was: nothing has changed since"),
        f"{counts['train']} rows to learn from, {counts['heldout']} held out; "
        f"{counts['pairs']} pairs of answers, {counts['heldout_pairs']} held out",
        f"it follows {manifest['parent'] or 'none'}",
    ]
    if manifest["withdrawn"]:
        lines.append(f"{manifest['withdrawn']} answers are gone: their tenants do not consent any more")
    page = (
        Section(f"Data set of {manifest['task']}, version {manifest['name']}", tuple(lines)),
        _counted("Rows to learn from, by whose word they have", manifest["sources"]["train"]),
        _counted("Left out, by why", manifest["dropped"]),
    )
    return Report(facts, page)


def _counted(heading: str, counts: Mapping[str, Any]) -> Section:
    if not counts:
        return Section(heading, ("none",))
    return Section(heading, columns=("rows", "which"), rows=tuple((str(n), name) for name, n in counts.items()))
