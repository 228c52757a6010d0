"""Reads CSV files of labelled messages: a first line with the names of the columns, then a row for each message."""

import csv
import io
import json
from collections.abc import Iterator, Sequence


class InvalidCsv(ValueError):
    """Raised if a text is not CSV, or lacks a column.

    The message is a predicate without its subject ("has one column, ..."); the method `at` puts file and line before
    it.
    """

    def __init__(self, problem: str, line: int = 0) -> None:
        super().__init__(problem)
        self.line = line
        """The number of the wrong line, counted from 1; 0 if the whole file is wrong."""

    def at(self, file: object) -> str:
        """Returns the message with the name of the file and the line before it."""
        return f"{file}:{self.line} {self}" if self.line else f"{file} {self}"


def csv_rows(text: str, required: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields for each row the number of its last line, and its cells by column; nothing for an empty text.

    Cells that belong to no column are left out; missing cells are empty. Raises InvalidCsv if the text is not CSV or
    lacks a `required` column.
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
    """Converts CSV to JSON Lines; empty cells are left out.

    Each object is on the line with the number of its row's last line in the CSV, so other lines may be empty. Raises
    InvalidCsv if the text is not CSV or lacks a `required` column.
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
