"""Reads CSV files of labelled messages: a first line with the names of the columns, then a row for each message."""

import csv
import io
import json
from collections.abc import Iterator, Sequence


class InvalidCsv(ValueError):
    """A text is no CSV, or lacks a column. The message has no subject ("has one column, ..."); see `at`."""

    def __init__(self, problem: str, line: int = 0) -> None:
        super().__init__(problem)
        self.line = line
        """Counted from 1; 0 if the problem is that of the whole file."""

    def at(self, file: object) -> str:
        """Returns the message with the name of the file and the line before it."""
        return f"{file}:{self.line} {self}" if self.line else f"{file} {self}"


def csv_rows(text: str, required: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the number of each row's last line, and the row's cells by column; nothing for an empty text.

    Cells without a column are left out, and missing ones are empty. Raises InvalidCsv if the text is no CSV or lacks a
    `required` column.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        _check_columns(reader.fieldnames or (), required)
        for row in reader:
            yield reader.line_num, {name: cell or "" for name, cell in row.items() if name is not None}
    except csv.Error as error:
        problem = f"is not CSV: {error}; put texts with commas or line breaks between quotes"
        raise InvalidCsv(problem, reader.line_num + 1) from error


def csv_as_json_lines(text: str, required: Sequence[str]) -> str:
    """Returns the rows as JSON Lines, each on the line of the CSV on which it ends; empty cells are left out.

    Raises InvalidCsv as `csv_rows` does.
    """
    lines: list[str] = []
    for number, row in csv_rows(text, required):
        lines += [""] * (number - len(lines))
        lines[-1] = json.dumps({name: cell for name, cell in row.items() if cell}, ensure_ascii=False)
    return "".join(f"{line}\n" for line in lines)


def _check_columns(columns: Sequence[str], required: Sequence[str]) -> None:
    missing = [name for name in required if name not in columns]
    if not columns or not missing:
        return
    if len(columns) == 1 and any(separator in columns[0] for separator in ";\t"):
        raise InvalidCsv(f"has one column, '{columns[0]}'; separate its columns by commas")
    raise InvalidCsv(
        f"has the columns {', '.join(columns)}, and none called {' or '.join(missing)}; name them "
        f"{' and '.join(required)} in its first line"
    )
