"""The command line of `python -m pointsman_lab reconcile`."""

import argparse
import math
from collections.abc import Iterator, Sequence
from datetime import tzinfo
from fractions import Fraction
from pathlib import Path
from zoneinfo import ZoneInfo

from pointsman_gateway.config.field_types import ConfigError

from pointsman_lab.reconcile.reconciliation import ReconcileOrder
from pointsman_lab.reconcile.selection import Selection
from pointsman_lab.request_log import parse_age


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--export", type=Path, action="append", default=[], metavar="FILE")
    parser.add_argument("--engine", action="append", default=[], metavar="NAME")
    for name in ("model", "key", "paid"):
        parser.add_argument(f"--{name}", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--time-zone", default="UTC", metavar="NAME")
    parser.add_argument("--tolerance", default="1", metavar="PERCENT")
    parser.add_argument("--since", default="7d", metavar="AGE", help="without an export")


def read_order(options: argparse.Namespace) -> ReconcileOrder:
    """Converts the parsed command line to an order; raises ConfigError or InvalidArgument if a value is invalid."""
    return ReconcileOrder(
        tuple(options.export),
        _share(options.tolerance),
        _zone(options.time_zone),
        Selection(frozenset(options.engine), dict(_pairs(options.model)), dict(_pairs(options.key))),
        {name: _usd(name, usd) for name, usd in _pairs(options.paid)},
        parse_age(options.since),
    )


def _share(percent: str) -> Fraction:
    try:
        share = Fraction(str(float(percent))) / 100
    except ValueError:
        share = Fraction(-1)
    if not 0 <= share <= 1:
        raise ConfigError(f"the tolerance is '{percent}', and should be percent from 0 to 100")
    return share


def _pairs(given: Sequence[str]) -> Iterator[tuple[str, str]]:
    for pair in given:
        name, separator, value = pair.rpartition("=")
        if not separator:
            raise ConfigError(f"'{pair}' is not of the form NAME=VALUE")
        yield name, value


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ConfigError(f"'{name}' is not a time zone; write one such as UTC or America/Los_Angeles") from error


def _usd(name: str, text: str) -> float:
    try:
        usd = float(text)
    except ValueError:
        usd = -1.0
    if not 0 <= usd < math.inf:
        raise ConfigError(f"the sum paid for '{name}' is '{text}'; write dollars, such as --paid {name}=12.50")
    return usd
