"""The output of the offline tools: a report on standard output, lines of progress on standard error."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

MAX_CELL_CHARACTERS = 100
PROGRESS_INTERVAL_SECONDS = 0.1
"""Minimum seconds between two progress lines; the last line of each activity is printed in any case."""

Progress = Callable[[str, int, int], None]
"""A function that reports progress; its arguments are the name of an activity, the number of items done, and of all
items.
"""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a report for people: a heading, sentences, and an optional table."""

    heading: str
    lines: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a command, both for programs (`facts`) and for people (`page`)."""

    facts: Mapping[str, Any]
    """The report's facts, of JSON types only."""
    page: tuple[Section, ...]
    failure: str = ""
    """The reason why the command ends with exit code 1 although it has a result; empty if it ends with 0."""

    def as_json(self) -> str:
        """Returns the report as one line of JSON, with `facts` and `page`."""
        page = [asdict(section) for section in self.page]
        return json.dumps({"facts": self.facts, "page": page}, ensure_ascii=False)

    def as_text(self) -> str:
        return "\n".join(line for section in self.page for line in _lines(section))


def to_cell(text: str) -> str:
    """Returns a text fit for a table cell: one line of at most MAX_CELL_CHARACTERS, without control characters."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))
    return line if len(line) <= MAX_CELL_CHARACTERS else line[: MAX_CELL_CHARACTERS - 1] + "…"


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


class ProgressLines:
    """A progress function that prints "ACTIVITY: DONE of TOTAL" to standard error, at limited intervals."""

    def __init__(self) -> None:
        self._printed_at = 0.0

    def __call__(self, activity: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done < total and now - self._printed_at < PROGRESS_INTERVAL_SECONDS:
            return
        self._printed_at = now
        print(f"{activity}: {done} of {total}", file=sys.stderr, flush=True)
