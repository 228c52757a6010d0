"""Reads the table in docs/api.md of the fields that some engines are not sent."""

import re
from collections.abc import Set
from pathlib import Path

_NAMES = re.compile(r"`([^`]+)`")


def documented_as_not_sent() -> Set[str]:
    """Returns the names in the table, written as in the gateway's notes. In rows whose first cell is code, such as
    `image_url`, that is "FIELD of image_url".
    """
    page = Path("docs/api.md").read_text("utf-8")
    _, _, section = page.partition("### Fields that are not sent")
    table, _, _ = section.partition("\n### ")
    rows = [row.strip("| ").split(" | ") for row in table.splitlines() if row.startswith("| ")]
    found = set()
    for what, *cells in rows[1:]:
        for name in _NAMES.findall(" ".join(cells)):
            found.add(f"{name} of {what.strip('`')}" if what.startswith("`") else name)
    return found
