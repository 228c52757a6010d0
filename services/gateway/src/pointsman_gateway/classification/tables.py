"""Finds tables and JSON within a text. Their cells and fields have names, which show who wrote them."""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

from pointsman_gateway.classification.wrappers import labels_file

MAX_ROWS = 50
"""Number of rows that are read at each end of a long table, and of lines at each end of a long text with JSON."""
MAX_CELLS = 40
MIN_COLUMNS, MIN_ROWS = 2, 2
MIN_COLUMNS_OF_COMMAS = 3
"""Minimum number of columns of a table whose cells are separated by commas or semicolons, since sentences contain
commas and semicolons, too.
"""
MAX_NAME_CHARACTERS = 40
"""If a cell of the first row is longer, the first row has no names of columns."""
MAX_JSON_CHARACTERS = 16_384
MAX_VALUES = 400

_SPEAKERS = frozenset(labels_file()["fields"]["speakers"])
_RULE = re.compile(r"[|\s:+=\u2500-\u257f-]*")
_TO_PIPES = str.maketrans("│┃║", "|||")
_DELIMITERS = ("|", "\t", ";", ",")
_JSON_START = re.compile(r"[{\[]")
_DECODER = json.JSONDecoder()


class Field(NamedTuple):
    names: tuple[str, ...]
    """The names of the fields that contain the value, outermost first; empty for text that is not in JSON."""
    text: str
    speaker: str = ""
    """What another field or column in the same row says about the field's author, such as "customer"."""


def fields_of_json(text: str) -> list[Field] | None:
    """Returns the strings in a text that is JSON, or that has lines with a JSON object; None if there is no JSON.

    On a line, an object may stand after other text, such as the time in a log. This other text, and lines without JSON,
    become fields without names.
    """
    if len(text) > MAX_JSON_CHARACTERS or not _JSON_START.search(text):
        return None
    with suppress(ValueError, RecursionError):
        return list(islice(_texts_of(json.loads(text), (), ""), MAX_VALUES))
    found: list[Field] = []
    has_json = False
    for line in _both_ends(text.split("\n")):
        start = line.find("{")
        fields = _decoded(line, start) if start >= 0 else None
        has_json = has_json or fields is not None
        found += [Field((), line)] if fields is None else fields
    return found if has_json else None


def fields_of_table(text: str) -> list[Field] | None:
    """Returns the cells of a table in Markdown, CSV or tab-separated values, with the names of their columns.

    In a table of two columns, the first cell of a row is the name of the second. Returns None if the text is no table.
    """
    if "\n" not in text:
        return None
    lines = _both_ends([line for line in text.translate(_TO_PIPES).split("\n") if line.strip()])
    delimiter = next((one for one in _DELIMITERS if _separates(one, lines)), None)
    if delimiter is None:
        return None
    rows = [_cells(line, delimiter) for line in lines if not _RULE.fullmatch(line)]
    if len(rows[0]) == MIN_COLUMNS:
        return [Field((name,), cell) for name, cell in rows]
    names = rows[0] if all(0 < len(cell) <= MAX_NAME_CHARACTERS for cell in rows[0]) else []
    body = rows[1:] if names else rows
    at = next((number for number, name in enumerate(names) if name.lower() in _SPEAKERS), None)
    return [
        Field((names[number] if names else "",), cell, row[at] if at is not None else "")
        for row in body
        for number, cell in enumerate(row[:MAX_CELLS])
        if number != at
    ]


def _both_ends(lines: list[str]) -> list[str]:
    return lines if len(lines) <= 2 * MAX_ROWS else [*lines[:MAX_ROWS], *lines[-MAX_ROWS:]]


def _decoded(line: str, start: int) -> list[Field] | None:
    """Returns the strings of the JSON object that begins at `start`, and the text around the object as a field.

    Returns None if no JSON object begins there.
    """
    with suppress(ValueError, RecursionError):
        value, end = _DECODER.raw_decode(line, start)
        around = (line[:start] + line[end:]).strip()
        return [*([Field((), around)] if around else []), *islice(_texts_of(value, (), ""), MAX_VALUES)]
    return None


def _texts_of(value: Any, names: tuple[str, ...], speaker: str) -> Iterator[Field]:
    if isinstance(value, str):
        yield Field(names, value.strip(), speaker)
    elif isinstance(value, dict):
        said_by = next((value[name] for name in value if name.lower() in _SPEAKERS), speaker)
        for name, each in value.items():
            yield from _texts_of(each, (*names, name), said_by if isinstance(said_by, str) else speaker)
    elif isinstance(value, list):
        for each in value:
            yield from _texts_of(each, names, speaker)


def _separates(delimiter: str, lines: Sequence[str]) -> bool:
    """Returns whether a delimiter splits each of at least two lines into the same number of cells."""
    rows = [line for line in lines if not _RULE.fullmatch(line)]
    if len(rows) < MIN_ROWS or any(delimiter not in line for line in rows):
        return False
    least = MIN_COLUMNS
    if delimiter in (",", ";"):
        if any(f"{delimiter} " in line.split('"')[0] for line in rows):
            return False  # a sentence
        least = MIN_COLUMNS_OF_COMMAS
    counts = {len(_cells(line, delimiter)) for line in rows}
    return len(counts) == 1 and least <= counts.pop()


def _cells(line: str, delimiter: str) -> list[str]:
    line = line.strip(" |") if delimiter == "|" else line
    with suppress(csv.Error):
        return [cell.strip() for row in csv.reader([line], delimiter=delimiter) for cell in row]
    return [line]
