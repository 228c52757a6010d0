"""What a command has found: facts for programs, and a page of sections for people."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

LONGEST_CELL = 100


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page: sentences, then a table where there is one."""

    heading: str
    lines: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    facts: Mapping[str, Any]
    """JSON's own types only."""
    page: tuple[Section, ...]
    refused: str = ""
    """Why the command fails although it has found all this; empty where it does not."""

    def as_json(self) -> str:
        """One line."""
        page = [asdict(section) for section in self.page]
        return json.dumps({"facts": self.facts, "page": page}, ensure_ascii=False)

    def as_text(self) -> str:
        return "\n".join(line for section in self.page for line in _lines(section))


def cell(text: str) -> str:
    """A text in one line, cut where it is long; what a terminal would obey is shown as a mark."""
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
"""Seconds from one line to the next; the last of each kind always comes."""

Progress = Callable[[str, int, int], None]
"""What is being done, how many are done, how many there are."""


class ProgressLines:
    """Writes them to standard error, so that standard output is the report's."""

    def __init__(self) -> None:
        self._said_at = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done < total and now - self._said_at < BETWEEN:
            return
        self._said_at = now
        print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)
