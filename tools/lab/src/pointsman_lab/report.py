"""A command's result: facts for programs and sections of text for people."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

LONGEST_CELL = 100


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the text: sentences, optionally followed by a table."""

    heading: str
    lines: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    facts: Mapping[str, Any]
    """Values of JSON types only."""
    page: tuple[Section, ...]
    refused: str = ""
    """Why the command fails despite having a result; empty if it succeeds."""

    def as_json(self) -> str:
        """Return the facts as one line of JSON."""
        page = [asdict(section) for section in self.page]
        return json.dumps({"facts": self.facts, "page": page}, ensure_ascii=False)

    def as_text(self) -> str:
        return "\n".join(line for section in self.page for line in _lines(section))


def cell(text: str) -> str:
    """Return a text as one line, truncated if long, with control characters replaced."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))
    return line if len(line) <= LONGEST_CELL else line[: LONGEST_CELL - 1] + "…"


def _lines(section: Section) -> Iterator[str]:
    yield section.heading
    yield from (f"  {line}" for line in section.lines)
    if section.rows:
        yield from _table([section.columns, *section.rows])
    yield ""


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield ("  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))).rstrip()


BETWEEN = 0.1
"""Minimum seconds between two progress lines. The last line of each kind is always written."""

Progress = Callable[[str, int, int], None]
"""A progress callback: activity, number done, total number."""


class ProgressLines:
    """Write progress to standard error, so that standard output contains only the report."""

    def __init__(self) -> None:
        self._said_at = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done < total and now - self._said_at < BETWEEN:
            return
        self._said_at = now
        print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)
