"""Reads labelled requests from JSON Lines files (UTF-8, one JSON object per line); CSV files are converted.

Other modules use `numbered`, `parsed` and `whole_lines` for other JSON Lines files, too.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointsman_servicekit.labelled_csv import InvalidCsv, csv_as_json_lines

from pointsman_cli.errors import UsageError

CSV_COLUMNS = ("text", "output")
"""The columns that a CSV file must have."""
ROW_FORM = 'write one JSON object a line: {"text": ..., "output": ...}'
_MAX_PROBLEMS = 5  # named in one error message
_ROLES = ("system", "developer", "user", "assistant")


def text_of(file: Path) -> str:
    """Reads a UTF-8 file, with or without a byte-order mark; converts a CSV file to JSON Lines.

    Raises UsageError if it cannot be read.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
        return csv_as_json_lines(text, CSV_COLUMNS) if file.suffix.lower() == ".csv" else text
    except InvalidCsv as error:
        raise UsageError(error.at(file)) from error
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise UsageError(f"{file} is not UTF-8 (line {line}: byte 0x{byte:02x}); save it as UTF-8") from error


def numbered(text: str) -> Iterator[tuple[int, str]]:
    """Yields the number (from 1) and the text of each non-blank line.

    Only line feeds end a line, because JSON strings may contain U+2028.
    """
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def parsed(line: str) -> Any:
    """Parses a line of JSON.

    Raises ValueError if the line is not JSON or has lone surrogates. The message has no subject ("is not JSON: ..."),
    so the caller can put the name of the file before it.
    """
    try:
        found = json.loads(line)
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is no letter; write the character itself") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from None
    return found


def whole_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Returns the complete lines of a file with their numbers (from 1), and truncates the file after the last of them.

    A process that was killed may have written an incomplete last line; after the truncation, lines can be appended.
    Blank lines are left out. Raises UsageError if the file cannot be read or changed.
    """
    try:
        content = file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(file, whole)
    except OSError as error:
        raise UsageError(f"cannot go on with {file}: {error.strerror or error}") from error
    return numbered(text_of(file))


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled request of a data set: the messages to send, and the expected output or facts."""

    id: str
    """The id that the data set gives the row; if it gives none, the number of the row's line."""
    task: str
    messages: tuple[Mapping[str, str], ...]
    """The messages of the request, each with `role` and `content`; the last one is the user's."""
    output: Any
    """The expected answer, a text or a JSON value; None if the row has no expected answer."""
    facts: Any
    """Facts that an answer must state, in the form that the metric `Contains` takes; None if the row has none."""

    @property
    def text(self) -> str:
        """Returns the text of the row's last message, which holds the question."""
        return self.messages[-1]["content"]


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set for evaluations: the labelled rows of one file, and the SHA-256 of this file."""

    file: Path
    digest: str
    """The SHA-256 of the whole file's text, in hexadecimal digits."""
    rows: tuple[Row, ...]


class _BadRow(ValueError):
    pass


def read_dataset(file: Path, task: str, limit: int | None = None) -> Dataset:
    """Reads a data set from a file, at most `limit` rows; None: all. Rows that name no task get the task `task`.

    Raises UsageError if the file cannot be read, has no rows, an invalid row or two rows with the same id.
    """
    text = text_of(file)
    rows = _rows(file, text, task)
    if not rows:
        form = "a row has a text and its right output" if file.suffix.lower() == ".csv" else ROW_FORM
        raise UsageError(f"{file} has no rows; {form}")
    _must_differ(file, rows)
    return Dataset(file, hashlib.sha256(text.encode()).hexdigest(), tuple(rows[:limit]))


def _rows(file: Path, text: str, task: str) -> list[Row]:
    rows: list[Row] = []
    problems: dict[str, list[int]] = {}
    """The numbers of the lines that have a problem, by the problem's message."""
    for number, line in numbered(text):
        try:
            rows.append(_row(line, number, task))
        except _BadRow as error:
            problems.setdefault(str(error), []).append(number)
    if problems:
        shown = [f"{file}:{_line_numbers(lines)} {problem}" for problem, lines in problems.items()]
        more = f"; and {len(shown) - _MAX_PROBLEMS} other problems" if len(shown) > _MAX_PROBLEMS else ""
        raise UsageError("; ".join(shown[:_MAX_PROBLEMS]) + more)
    return rows


def _line_numbers(lines: Sequence[int]) -> str:
    return f"{lines[0]} (and {len(lines) - 1} more lines)" if len(lines) > 1 else str(lines[0])


def _row(line: str, number: int, task: str) -> Row:
    try:
        data = parsed(line)
    except ValueError as error:
        raise _BadRow(str(error)) from None
    if not isinstance(data, dict):
        raise _BadRow(f"is no JSON object; {ROW_FORM}")
    of = data.get("task", task)
    if not isinstance(of, str) or not of:
        raise _BadRow('names no task; add "task", or name one for all with --task')
    output, facts = data.get("output"), data.get("facts")
    if output is None and facts is None:
        raise _BadRow('has neither an "output" nor "facts" to compare with')
    identifier = data.get("id", str(number))
    if not isinstance(identifier, str | int) or isinstance(identifier, bool):
        raise _BadRow(f'has an "id" that is neither a text nor a whole number: {identifier!r}')
    return Row(str(identifier), of, tuple(_messages(data)), output, facts)


def _messages(data: Mapping[str, Any]) -> Iterator[Mapping[str, str]]:
    if ("text" in data) == ("messages" in data):
        raise _BadRow('must have either "text" or "messages"')
    if "text" in data:
        yield {"role": "user", "content": _text(data["text"], '"text"')}
        return
    messages = data["messages"]
    if not isinstance(messages, list) or not messages:
        raise _BadRow('"messages" must be a list that is not empty')
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise _BadRow(f"a message has a role ({', '.join(_ROLES)}) and a content; this is {str(message)[:80]}")
        yield {"role": message["role"], "content": _text(message.get("content"), "a message's content")}
    if messages[-1]["role"] != "user":
        raise _BadRow("the last message must be the user's: it is what is asked")


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _BadRow(f"{what} must be a text that is not empty; it is {str(value)[:80]!r}")
    return value


def _must_differ(file: Path, rows: Sequence[Row]) -> None:
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise UsageError(f"{file} has two rows with the id {row.id!r}")
        seen.add(row.id)
