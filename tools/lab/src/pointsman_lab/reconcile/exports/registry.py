"""Detects the format of a provider's export of usage or costs, and reads it.

To add a format, write a module in this folder and add it to the list APIS (JSON) or TABLES (CSV).
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import tzinfo
from functools import partial
from itertools import pairwise
from pathlib import Path

from pointsman_gateway.config.field_types import ConfigError

from pointsman_lab.reconcile.exports import anthropic, aws, azure, openai
from pointsman_lab.reconcile.exports.lines import Export, Line
from pointsman_lab.reconcile.exports.tables import MAX_FILE_BYTES, open_text, plain_name, read_rows

APIS = (openai, anthropic)
"""The modules that read JSON formats, which are answers of an API."""
TABLES = (aws, azure)
"""The modules that read CSV formats, except OpenAI's."""
KNOWN = (
    "known are JSON of OpenAI's usage and costs APIs and of Anthropic's usage and cost reports, and CSV of OpenAI's "
    "usage page, of AWS's cost and usage report and of Azure's cost exports, each with the columns of its documentation"
)


def read_exports(files: Sequence[Path], zone: tzinfo) -> list[Export]:
    """Reads providers' exports; returns one export for each format, with the lines of all its files.

    `zone` is the time zone of times that state no time zone. Raises ConfigError if a file cannot be read, has no known
    format, or repeats the content of another file.
    """
    found: dict[str, Export] = {}
    read: dict[str, Path] = {}
    for file in files:
        for export in _read(file, zone):
            name = export.format
            found[name] = _joined(found[name], export, file) if name in found else export
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        if digest in read:
            raise ConfigError(f"{file} has the same content as {read[digest]}: name each export once")
        read[digest] = file
    for export in found.values():
        _check_once(export.lines, export.format)
    return list(found.values())


def _read(file: Path, zone: tzinfo) -> list[Export]:
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{file} has more than {MAX_FILE_BYTES:,} bytes; export fewer days or one service")
        with open_text(file) as text:
            first = next((character for character in iter(partial(text.read, 1), "") if not character.isspace()), "")
            if not first:
                raise ConfigError(f"{file} is empty: export it again")
            text.seek(0)
            if first in ("{", "["):
                return _read_json(text.read(), file)
            header = text.readline()
            columns = [plain_name(column) for column in header.split(",")]
            text.seek(0)
            rows = read_rows(text, file)
            if openai.is_table(columns):
                return openai.read_table(rows, str(file))
            for table in TABLES:
                if table.is_table(columns):
                    exports: list[Export] = table.read_table(rows, str(file), zone)
                    return exports
    except (OSError, EOFError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    except UnicodeError as error:
        raise ConfigError(f"{file} is no text in UTF-8: {error}") from error
    if len(columns) == 1 and ";" in header:
        raise ConfigError(f"{file} is separated by semicolons: export it with commas, and with points in numbers")
    shown = ", ".join([*columns[:8], *(["..."] if len(columns) > 8 else [])])
    raise ConfigError(f"{file} has the columns {shown}, which are of no known export: {KNOWN}")


def _read_json(text: str, file: Path) -> list[Export]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is not JSON: {error}") from error
    pages = content if isinstance(content, list) else [content]
    if not pages:
        raise ConfigError(f"{file} has no answer of an API; {KNOWN}")
    exports: list[Export] = []
    for page in pages:
        api = next((one for one in APIS if one.is_page(page)), None)
        if api is None:
            raise ConfigError(f"{file} is not an export of a known kind; {KNOWN}")
        exports += api.read_page(page, str(file))
    return exports


def _joined(one: Export, other: Export, file: Path) -> Export:
    if {*one.reports} & {*other.reports}:
        raise ConfigError(f"{file} has days that another file has too: name each export once")
    return replace(
        one,
        lines=[*one.lines, *other.lines],
        kinds={*one.kinds, *other.kinds},
        notes=[*dict.fromkeys((*one.notes, *other.notes))],
        covered=[*one.covered, *other.covered],
        reports={*one.reports, *other.reports},
    )


def _check_once(lines: Sequence[Line], name: str) -> None:
    """Raises ConfigError if two intervals overlap and are not equal, as happens with two exports of the same days."""
    intervals = sorted({(line.begin, line.end) for line in lines})
    for (_, end), (begin, _) in pairwise(intervals):
        if begin < end:
            raise ConfigError(f"{name} has intervals that overlap: name one export for each day")
