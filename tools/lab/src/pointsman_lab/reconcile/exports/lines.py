"""The lines of a provider's export: the count or cost of one kind of token in one interval of time."""

import re
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.domain import PICODOLLARS
from pointsman_gateway.domain.usage import TOKEN_KINDS

SECONDS_PER_DAY = 24 * 60 * 60
REQUESTS, TOOLS, ALL_KINDS = "requests", "tool", "all"
"""Kinds of lines that are not tokens: requests to models, use of the provider's tools, undivided costs."""
PLAIN_KINDS = ("prompt", "cached", "completion")
KINDS = (*PLAIN_KINDS, *TOKEN_KINDS)
"""The kinds of tokens, as in `Usage.by_kind`; each token is of exactly one kind."""

Number = int | Fraction
"""An exact number; whole numbers are integers, since sums of integers are ten times as fast."""

_MAX_COUNT = 10**18
_MAX_UNIX_SECONDS = 32_503_680_000  # the year 3000
_NUMBER = re.compile(r"[+-]?([0-9]+|[0-9]{1,3}(,[0-9]{3})+)?(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?")
"""The pattern of a number: a comma separates thousands, and an exponent has at most three digits so that it can be
computed.
"""


@dataclass(frozen=True, slots=True)
class Line:
    """The count or cost that a provider states for one model and one kind of token in one interval of time."""

    begin: float
    """Unix seconds at which the interval begins."""
    end: float
    """Unix seconds at which the interval ends."""
    model: str
    """The provider's name of the model; empty if the export is not divided by model."""
    kind: str
    """One of KINDS, REQUESTS, TOOLS or ALL_KINDS; or the provider's word for any other kind."""
    count: Number | None = None
    """The number of tokens or requests; None if the export states only costs."""
    picodollars: Number | None = None
    """The cost of the line in picodollars; None if the export does not state it."""
    key: str | None = None
    """The provider's id of the key, project, workspace or resource; None if the export is not divided by key."""
    tier: str | None = None
    """The service tier, empty for the standard tier; None if the export is not divided by tier."""


@dataclass(frozen=True, slots=True)
class Export:
    """The lines of usage or costs in one or more files of the same provider's format."""

    format: str
    """The name of the provider's format in reports, such as "OpenAI's usage"."""
    providers: tuple[str, ...]
    """The configuration's names of the providers whose usage or costs may be in the export."""
    lines: Sequence[Line]
    kinds: Collection[str]
    """The kinds of tokens that the export distinguishes. Tokens of other kinds are counted as "prompt" or
    "completion".
    """
    notes: Sequence[str] = ()
    """Sentences for the report on lines of the files that were left out."""
    covered: Sequence[tuple[float, float]] = field(default_factory=list)
    """The intervals (begin, end) in Unix seconds that the export describes, also those without a line."""
    reports: Collection[Hashable] = ()
    """Keys that say what is reported for which interval, by which two files with the same content are detected."""

    @property
    def has_counts(self) -> bool:
        return any(line.count is not None for line in self.lines)

    @property
    def has_dollars(self) -> bool:
        return any(line.picodollars is not None for line in self.lines)


def to_count(value: Any, where: str) -> Number:
    """Converts a number of tokens or requests; None and an empty text are 0.

    Raises ConfigError, which names the value by `where`, if the value is negative, too large or not a number.
    """
    number = 0 if value is None or value == "" else exact(_fraction(value, where))
    if not 0 <= number <= _MAX_COUNT:
        raise ConfigError(f"{where} is {value}, and should be a number of tokens or requests")
    return number


def to_picodollars(value: Any, currency: Any, where: str, units_per_dollar: int = 1) -> Number:
    """Converts an amount of money to picodollars.

    `value` is in units of which `units_per_dollar` are one dollar (100: cents), and `currency` must be "USD". Raises
    ConfigError, which names the value by `where`, if the value is not a number or in another currency.
    """
    if str(currency or "").upper() != "USD":
        shown = str(currency or "no currency")[:20]
        raise ConfigError(f"{where} is in {shown}, and receipts are in dollars: export the costs in USD")
    return exact(_fraction(value, where) / units_per_dollar * PICODOLLARS)


def check_interval(begin: float, end: float, where: str) -> tuple[float, float]:
    """Returns the interval (`begin`, `end`) of Unix seconds unchanged.

    Raises ConfigError, which names the interval by `where`, if it ends before it begins, or is before 1970 or after
    3000.
    """
    if begin >= end:
        raise ConfigError(f"{where}: the interval ends before it begins")
    if begin < 0 or end > _MAX_UNIX_SECONDS:
        raise ConfigError(f"{where}: the interval is {'before the year 1970' if begin < 0 else 'after the year 3000'}")
    return begin, end


def exact(number: Number) -> Number:
    """Returns the number unchanged, but as an int if it is a whole Fraction."""
    return number.numerator if number.denominator == 1 else number


def size(difference: Number) -> Number:
    """Returns the absolute value of a difference."""
    return difference if difference >= 0 else -difference


def check_page(page: Mapping[str, Any], where: str) -> None:
    """Raises ConfigError, which names the file by `where`, if `page` is not the last page of an API's answer."""
    if page.get("has_more"):
        token = str(page.get("next_page") or "")[:60]
        raise ConfigError(f"{where} is not complete: get the next page (page={token}) and name both files")


def _fraction(value: Any, where: str) -> Fraction:
    text = str(value).strip()
    try:
        if isinstance(value, bool) or not _NUMBER.fullmatch(text):
            raise ValueError
        return Fraction(text.replace(",", ""))
    except ValueError:
        raise ConfigError(f"{where} is {str(value)[:40]!r}, and should be a number") from None
