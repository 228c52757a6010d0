"""Reads CSV files whose columns are named in different ways, and the days in them."""

import csv
import gzip
import io
import re
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, tzinfo
from pathlib import Path
from typing import cast

from pointsman_gateway.config.field_types import ConfigError

from pointsman_lab.reconcile.exports.lines import SECONDS_PER_DAY

MAX_FILE_BYTES = 1024 * 1024 * 1024
DAY_FORMATS = ("%m/%d/%Y", "%Y%m%d")


def open_text(file: Path) -> io.TextIOBase:
    """Opens a file of text, also one that is compressed by gzip. Raises OSError as `open` does."""
    with file.open("rb") as beginning:
        is_compressed = beginning.read(2) == b"\x1f\x8b"
    if is_compressed:
        return cast(io.TextIOBase, gzip.open(file, "rt", encoding="utf-8-sig", newline=""))
    return file.open(encoding="utf-8-sig", newline="")


def plain_name(column: str) -> str:
    """Returns a column's name in lower case with underscores: "line_item_usage_amount" for "lineItem/UsageAmount"."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", column.strip())
    return re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")


def read_rows(text: io.TextIOBase, file: Path) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Yields the rows with the numbers of their lines, by `plain_name` of the columns.

    Raises ConfigError if a row has more values than there are columns, or the file is no CSV file.
    """
    reader = csv.reader(text)
    try:
        columns = [plain_name(column) for column in next(reader, [])]
        for row in reader:
            if len(row) > len(columns):
                raise ConfigError(f"{file}, line {reader.line_num} has {len(row)} values for {len(columns)} columns")
            if row:
                yield reader.line_num, {**dict.fromkeys(columns, ""), **dict(zip(columns, row, strict=False))}
    except csv.Error as error:
        raise ConfigError(f"{file}, line {reader.line_num} is not CSV: {error}") from error


def interval_of(begin: str, end: str, zone: tzinfo, where: str) -> tuple[float, float]:
    """Returns the interval in Unix seconds. Without an `end`, it is a day if `begin` has no time, and else an hour.

    A time without a zone is one of `zone`. Raises ConfigError if it is no time.
    """
    start, is_day = _moment(begin, zone, where)
    if end:
        stop, _ = _moment(end, zone, where)
        if stop <= start:
            raise ConfigError(f"{where}: the interval ends ({end}) before it begins ({begin})")
        return start, stop
    return start, start + (SECONDS_PER_DAY if is_day else 3600)


def _moment(text: str, zone: tzinfo, where: str) -> tuple[float, bool]:
    """Returns Unix seconds, and whether the text is a day without a time."""
    text = text.strip()
    for day_format in DAY_FORMATS:
        try:
            day = datetime.strptime(text, day_format).date()
        except ValueError:
            continue
        return datetime.combine(day, time(), zone).timestamp(), True
    try:
        if len(text) == len("2026-11-01"):
            return datetime.combine(date.fromisoformat(text), time(), zone).timestamp(), True
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{where}: '{text[:40]}' is no day such as 2026-11-01 or 11/01/2026, and no time") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp(), False
