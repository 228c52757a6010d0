"""Prints tables that stay readable in any width: a word is never broken into pieces.

In a file or pipe each row is one line. In a terminal, the cells of columns that do not fit follow on lines below their
row, each with the name of its column.
"""

import textwrap
from collections.abc import Collection, Iterator, Sequence
from decimal import Decimal

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions
from rich.text import Text

_GAP = "  "
_INDENT = "    "
UNLIMITED = 1_000_000
"""The width of a table, in terminal cells, if the output is not a terminal: practically unlimited."""


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Collection[str] = (),
    console: Console | None = None,
) -> None:
    """Prints a table: the names of the columns, then the rows of texts; columns named in `right` are right-aligned.

    It is printed to `console`; None: to standard output.
    """
    console = console or Console(highlight=False)
    width = console.width if console.is_terminal else UNLIMITED
    for number, line in enumerate(table_lines(columns, rows, width, right)):
        console.print(Text(line, style="dim" if number == 0 else ""), highlight=False, soft_wrap=True)


class FittingTable:
    """A rich renderable that draws a table as `print_table` does, so that it can be combined with other renderables."""

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> None:
        self._columns, self._rows, self._right = columns, rows, right

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        width = options.max_width if console.is_terminal else UNLIMITED
        for number, line in enumerate(table_lines(self._columns, self._rows, width, self._right)):
            yield Text(line, style="dim" if number == 0 else "", no_wrap=True, overflow="ignore")


def table_lines(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int, right: Collection[str] = ()
) -> Iterator[str]:
    """Yields the lines of a table as text, first the line with the names of the columns.

    `width` is the maximum width in terminal cells; `right` names the columns to align to the right. If the columns do
    not fit side by side, those that do not fit are left out of the row's line, and their cells follow on lines below
    it. The first column is never left out.
    """
    widths = [max(map(cell_len, cells)) for cells in zip(columns, *rows, strict=True)]
    beside, used = [0], widths[0]
    for number in range(1, len(columns)):
        if used + len(_GAP) + widths[number] <= width:
            beside.append(number)
            used += len(_GAP) + widths[number]
    below = [number for number in range(len(columns)) if number not in beside]
    for row in (columns, *rows):
        cells = (_aligned(row[number], widths[number], columns[number] in right) for number in beside)
        line = _GAP.join(cells).rstrip()
        if line:
            yield line
        if row is not columns:
            for number in below:
                yield from _below(columns[number], row[number], width)


def decimal_text(value: float) -> str:
    """Returns a number as text, rounded to six significant digits, and never with an exponent."""
    return f"{Decimal(f'{value:.6g}'):f}"


def _aligned(text: str, width: int, is_right: bool) -> str:
    return " " * (width - cell_len(text)) + text if is_right else set_cell_size(text, width)


def _below(name: str, text: str, width: int) -> Iterator[str]:
    if text:
        yield from textwrap.wrap(
            f"{name}: {text}" if name else text,
            max(width, 2 * len(_INDENT)),
            initial_indent=_INDENT,
            subsequent_indent=_INDENT * 2,
            break_long_words=False,
            break_on_hyphens=False,
        )
