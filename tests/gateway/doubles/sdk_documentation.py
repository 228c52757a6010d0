"""Reads the documentation's table of the fields that some engines do not get."""

import re
from collections.abc import Set
from pathlib import Path

_NAMES = re.compile(r"`([^`]+)`")


def documented_as_not_sent() -> Set[str]:
    """Returns the names of the table as notes have them: of a row whose first cell is code, with what has the field."""
    page = Path("docs/api.md").read_text("utf-8")
    _, _, section = page.partition("### Fields that are not sent")
    table, _, _ = section.partition("\n### ")
    rows = [row.strip("| ").split(" | ") for row in table.splitlines() if row.startswith("| ")]
    found = set()
    for what, *cells in rows[1:]:
        for name in _NAMES.findall(" ".join(cells)):
            found.add(f"{name} of {what.strip('`')}" if what.startswith("`") else name)
    return found
