"""Reads CSV files whose columns are named in different ways, and converts the days and times in these files."""

import csv
import gzip
import io
import re
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta, tzinfo
from pathlib import Path
from typing import cast

from pointsman_gateway.config.field_types import ConfigError

from pointsman_lab.reconcile.exports.lines import check_interval

MAX_FILE_BYTES = 1024 * 1024 * 1024
DAY_FORMATS = ("%m/%d/%Y", "%Y%m%d")


def open_text(file: Path) -> io.TextIOBase:
    """Opens a UTF-8 text file, which may be compressed by gzip; raises OSError if it cannot be opened."""
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
    """Yields each row of a CSV file as its line number and its values by column, named as by `plain_name`.

    `file` is the file's path for messages. Raises ConfigError if a row has more or fewer values than there are columns,
    or the text is not CSV.
    """
    reader = csv.reader(text)
    try:
        columns = [plain_name(column) for column in next(reader, [])]
        for row in reader:
            if row and len(row) != len(columns):
                raise ConfigError(
                    f"{file}, line {reader.line_num} has {len(row)} values for {len(columns)} columns: if the file was "
                    "cut off, export it again"
                )
            if row:
                yield reader.line_num, dict(zip(columns, row, strict=True))
    except csv.Error as error:
        raise ConfigError(f"{file}, line {reader.line_num} is not CSV: {error}") from error


def interval_of(begin: str, end: str, zone: tzinfo, where: str) -> tuple[float, float]:
    """Converts two days or times to an interval in Unix seconds: (begin, end), where the end is exclusive.

    A day stands for its first moment, also as `end`. If `end` is empty, the interval is one day if `begin` is a day,
    and one hour if `begin` has a time. `zone` is the time zone of days, and of times that state no time zone. Raises
    ConfigError, which names the place by `where`, if a text is neither a day nor a time, or the interval is not valid
    (see `check_interval`).
    """
    start, following = _moment(begin, zone, where)
    stop = _moment(end, zone, where)[0] if end else following
    return check_interval(start, stop, where)


def _moment(text: str, zone: tzinfo, where: str) -> tuple[float, float]:
    """Returns the Unix seconds of `text`, and the Unix seconds at which the time that it names ends.

    A day without a time ends at the begin of the next day, a time one hour later.
    """
    text = text.strip()
    for day_format in DAY_FORMATS:
        try:
            day = datetime.strptime(text, day_format).date()
        except ValueError:
            continue
        return _day(day, zone)
    try:
        if len(text) == len("2026-11-01"):
            return _day(date.fromisoformat(text), zone)
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ConfigError(f"{where}: '{text[:40]}' is no day such as 2026-11-01 or 11/01/2026, and no time") from None
    seconds = (moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp()
    return seconds, seconds + 3600


def _day(day: date, zone: tzinfo) -> tuple[float, float]:
    """Returns the Unix seconds at which a day begins and ends, which is 23 or 25 hours later if clocks change."""
    begin, end = (datetime.combine(at, time(), zone).timestamp() for at in (day, day + timedelta(days=1)))
    return begin, end
