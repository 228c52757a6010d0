"""The metrics of answers: exact, json_fields, contains, regex and rouge_l."""

import json
import re
import unicodedata
from typing import Any, Literal, Protocol

Leaf = tuple[str, Any]
"""A value of a parsed JSON document that is no object or array with content, as (type, value).

The type is needed because True == 1 in Python but not in JSON. It is "number", or the name of another Python class that
JSON is parsed to ("str", "bool", "NoneType").
"""

NOTHING: Any = object()
"""The result of parsing a text that is not JSON. It cannot be None, which stands for JSON's null."""

_SECONDS = 0.05  # answers are untrusted: a pattern that takes longer than this does not match

_WORDS = re.compile(r"\w+")


class MetricError(ValueError):
    """A metric or its options are not valid, a metric cannot use the expected value, or a user's metric fails."""


class Metric(Protocol):
    """Interface of all metrics; the classes of this module and of `registry` implement it.

    A metric may have an attribute `compares_facts`. If it is True, an answer is compared with the row's facts, if the
    row has some, and not with the row's output.
    """

    def score(self, answer: str, expected: Any) -> float:
        """Scores `answer` from 0 to 1.

        `expected` is the label (expected answer): a text or any JSON value. Raises MetricError if the metric cannot use
        the label. The metrics of this module check the label even if the answer is wrong or empty, so a label can be
        checked with an empty answer before answers are paid for.
        """
        ...


def plain(text: str) -> str:
    """Normalizes a text for comparison: Unicode NFKC, case folded, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def parsed(text: str) -> Any:
    """Parses the whole text as JSON; returns NOTHING if it is not JSON (NaN is not) or is nested too deep."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return NOTHING


def structure(expected: Any) -> Any:
    """Returns a label (expected answer) as an object or array, if the label is one or is the JSON text of one.

    Returns NOTHING for any other label.
    """
    value = parsed(expected) if isinstance(expected, str) else expected
    return value if isinstance(value, dict | list) else NOTHING


def leaves(value: Any) -> dict[tuple[str | int, ...], Leaf]:
    """Flattens a JSON value: returns path -> leaf, where a path has the object keys and array positions down to the
    leaf.

    An empty object or array is a leaf.
    """
    found: dict[tuple[str | int, ...], Leaf] = {}
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    while waiting:
        where, inner = waiting.pop()
        if isinstance(inner, dict) and inner:
            waiting += [((*where, key), item) for key, item in inner.items()]
        elif isinstance(inner, list) and inner:
            waiting += [((*where, index), item) for index, item in enumerate(inner)]
        else:
            found[where] = _leaf(inner)
    return found


def _leaf(value: Any) -> Leaf:
    if isinstance(value, dict | list):
        return type(value).__name__, ()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number", value
    return type(value).__name__, value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not valid in JSON")


class WithoutOption:
    """Base class of the metrics without options, which are written as `{NAME: true}`."""

    Options = Literal[True]

    def __init__(self, option: Any = True) -> None:
        """Raises MetricError if `option` is not True."""
        if option is not True:
            raise MetricError(f"it has no options; write true (it is {option!r})")


class Exact(WithoutOption):
    """A metric: 1 if the answer equals the label (expected answer), else 0.

    If the label is a JSON object or array, or the text of one, the answer must be JSON with equal values, strings
    included. Any other label must be a text; it is compared without regard to case and the number of spaces.
    """

    def score(self, answer: str, expected: Any) -> float:
        wanted = structure(expected)
        if wanted is not NOTHING:
            got = parsed(answer)
            return float(got is not NOTHING and leaves(got) == leaves(wanted))
        if not isinstance(expected, str):
            raise MetricError(f"exact compares with a text, an object or an array; the label is {expected!r}")
        return float(plain(answer) == plain(expected))


class Contains(WithoutOption):
    """A metric: the fraction of the expected facts that the answer contains.

    The label is one text, or a list of facts, each a text or a list of alternative texts. Case and the number of spaces
    are ignored. A fact counts only as whole words: "5 days" is not contained in "15 days", nor "40 dollars" in "2.40
    dollars".
    """

    compares_facts = True

    def score(self, answer: str, expected: Any) -> float:
        facts = [_ways_to_say(fact) for fact in (expected if isinstance(expected, list) else [expected])]
        if not facts:
            raise MetricError("contains looks for facts; the label names none")
        text = plain(answer)
        return sum(any(_stands_in(text, way) for way in ways) for ways in facts) / len(facts)


def _ways_to_say(fact: Any) -> list[str]:
    ways = fact if isinstance(fact, list) else [fact]
    if not ways or not all(isinstance(way, str) and plain(way) for way in ways):
        raise MetricError(f"a fact is a text that is not empty, or a list of such texts; the label has {fact!r}")
    return [plain(way) for way in ways]


def _stands_in(text: str, way: str) -> bool:
    before = r"(?<!\w)(?<!\d[.,])" if way[0].isalnum() else ""
    after = r"(?!\w)(?![.,]\d)" if way[-1].isalnum() else ""
    return re.search(before + re.escape(way) + after, text) is not None


class JsonFields(WithoutOption):
    """A metric: F1 over the fields of a JSON value, so that a missing field lowers the score as much as an invented
    one.

    A field is a value with its path (`leaves`). The label (expected answer) is an object or array, or the text of one.
    An answer that is not JSON scores 0.
    """

    def score(self, answer: str, expected: Any) -> float:
        structured = structure(expected)
        if structured is NOTHING:
            raise MetricError(f"json_fields compares with an object or an array; the label is {expected!r}")
        got, wanted = parsed(answer), leaves(structured)
        if got is NOTHING:
            return 0.0
        found = leaves(got)
        right = sum(where in found and found[where] == leaf for where, leaf in wanted.items())
        return 2 * right / (len(found) + len(wanted))


class Regex:
    r"""A metric: 1 if the pattern is found in the answer and, if there is a label, the last match equals it; else 0.

    The text that is compared with the label (expected answer) is the pattern's first group, or the whole match if it
    has none: r"total is (\S+)" extracts the sum from an answer that reasons before it. Case and the number of spaces
    are ignored. A search that takes more than 50 ms finds nothing.
    """

    Options = str

    def __init__(self, pattern: str) -> None:
        """Compiles the pattern; raises MetricError if it is not a valid regular expression, or empty."""
        import regex  # like RapidFuzz below, only for the metric that needs it

        if not isinstance(pattern, str) or not pattern:
            raise MetricError(f"the pattern is a text; it is {pattern!r}")
        try:
            self._pattern = regex.compile(pattern)
        except regex.error as error:
            raise MetricError(f"bad pattern {pattern!r}: {error}") from error

    def score(self, answer: str, expected: Any) -> float:
        if expected is not None and not isinstance(expected, str):
            raise MetricError(f"regex compares what it finds with a text; the label is {expected!r}")
        found = self._last(answer)
        if found is None:
            return 0.0
        return float(expected is None or plain(found) == plain(expected))

    def _last(self, answer: str) -> str | None:
        last = None
        try:
            for match in self._pattern.finditer(answer, timeout=_SECONDS):
                last = match
        except TimeoutError:
            return None
        if last is None:
            return None
        return (last[1] if self._pattern.groups else last[0]) or ""


class RougeL(WithoutOption):
    """A metric: ROUGE-L as F1 (C.-Y. Lin, "ROUGE", 2004), which is 2 LCS / (m + n) over words, without stemming.

    LCS is the length of the longest common subsequence of words, m and n are the numbers of words of answer and label
    (expected answer). The label is a text with at least one word.
    """

    def score(self, answer: str, expected: Any) -> float:
        if not isinstance(expected, str) or not _WORDS.search(expected):
            raise MetricError(f"rouge_l compares with a text that has words; the label is {expected!r}")
        from rapidfuzz.distance import Indel  # 2 MB that other metrics do not need

        return float(Indel.normalized_similarity(_words(answer), _words(expected)))


def _words(text: str) -> list[str]:
    return _WORDS.findall(plain(text))
