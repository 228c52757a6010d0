"""The properties that the swap test examines, its observations of each property, and the verdicts on them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

MAX_EXAMPLES = 5


class Property(StrEnum):
    WRONG_VERSION = "wrong-version"
    STALE_CACHE = "stale-cache"
    NO_EFFECT = "no-effect"
    BASE_CHANGED = "base-changed"
    FAILED_REQUESTS = "failed-requests"
    IN_FLIGHT = "in-flight"
    FILE_NAMES = "file-names"
    RESTART = "restart"


STATEMENTS: Mapping[Property, str] = {
    Property.WRONG_VERSION: "Each token is computed with the weights of the version that was requested.",
    Property.STALE_CACHE: "After a replacement no block of the prefix cache is from the version before.",
    Property.NO_EFFECT: "A loaded adapter changes the answers; one that does not fit the base model is refused.",
    Property.BASE_CHANGED: "The base model answers as before, whatever is loaded beside it.",
    Property.FAILED_REQUESTS: "No request fails or hangs while adapters are loaded, replaced, unloaded and evicted.",
    Property.IN_FLIGHT: "A request in flight ends with the version that began it.",
    Property.FILE_NAMES: "No name of a model reads a file, and no folder of the server is shown.",
    Property.RESTART: "After a restart each adapter answers as before, or is refused.",
}


class Grade(StrEnum):
    """The verdict on one property of an engine, such as "no wrong version answers", or on the whole swap test.

    The worst observation decides. FAIL: an answer was wrong, or the property was violated in another way. WEAK: the
    engine rejected a request that it should serve, or exposes something that nobody needs. UNTESTED: there is no
    observation.
    """

    PASS = "pass"
    WEAK = "weak"
    FAIL = "fail"
    UNTESTED = "untested"


SCALE: Mapping[Grade, str] = {
    Grade.PASS: "everything that was observed is as the statement says",
    Grade.WEAK: "nothing was answered wrongly, but what should work was refused, or what nobody needs is shown or open",
    Grade.FAIL: "the statement was false at least once",
    Grade.UNTESTED: "nothing was observed; of the whole test: a check was not carried out, and none failed",
}


@dataclass(slots=True)
class PropertyRecord:
    """The observations of one property while the swap test replaces adapters: their number, how many of them are weak,
    how many failed (see `Grade`), and examples.
    """

    observed: int = 0
    weak: int = 0
    failed: int = 0
    wrong_tokens: int = 0
    examples: list[str] = field(default_factory=list)
    """Texts on the first failed observations, at most MAX_EXAMPLES different ones."""
    weak_examples: list[str] = field(default_factory=list)
    """Texts on the first weak observations, at most MAX_EXAMPLES different ones."""
    why_untested: str = "its check was not carried out"

    @property
    def verdict(self) -> Grade:
        if self.failed:
            return Grade.FAIL
        if self.weak:
            return Grade.WEAK
        return Grade.PASS if self.observed else Grade.UNTESTED


class Findings:
    """The observations of all properties in one swap test, its notes, and the checks that were not carried out."""

    def __init__(self) -> None:
        self.records = {each: PropertyRecord() for each in Property}
        self.notes: list[str] = []
        """Sentences for the user that belong to no property, such as on adapters that could not be unloaded."""
        self.not_done: dict[str, str] = {}
        """The reason for each check that was not carried out as planned, by the check's name."""

    def passed(self, about: Property) -> None:
        self.records[about].observed += 1

    def weak(self, about: Property, what: str) -> None:
        record = self.records[about]
        record.observed += 1
        record.weak += 1
        _add_example(record.weak_examples, what)

    def failed(self, about: Property, what: str, wrong_tokens: int = 0) -> None:
        record = self.records[about]
        record.observed += 1
        record.failed += 1
        record.wrong_tokens += wrong_tokens
        _add_example(record.examples, what)

    def skip(self, about: Property, why: str) -> None:
        """Records why a property of the engine is not tested, which is shown only if it has no observation."""
        self.records[about].why_untested = why

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    @property
    def untested(self) -> frozenset[Property]:
        return frozenset(about for about, record in self.records.items() if record.verdict is Grade.UNTESTED)

    def leave_out(self, check: str, why: str) -> None:
        """Records why a planned check was not carried out, or not to its end; keeps the first reason for a check."""
        self.not_done.setdefault(check, why)

    def is_failed(self, about: Property) -> bool:
        return self.records[about].verdict is Grade.FAIL

    @property
    def overall(self) -> Grade:
        """Returns the verdict of the whole test.

        It is FAIL if a property failed, else UNTESTED if a check was left out, else WEAK if a property is weak, else
        PASS.
        """
        verdicts = {record.verdict for record in self.records.values()}
        if self.not_done and Grade.FAIL not in verdicts:
            return Grade.UNTESTED
        return next((each for each in (Grade.FAIL, Grade.WEAK, Grade.PASS) if each in verdicts), Grade.UNTESTED)

    def as_json(self) -> list[dict[str, Any]]:
        return [
            {
                "property": str(each),
                "statement": STATEMENTS[each],
                "verdict": str(record.verdict),
                "observed": record.observed,
                "weak": record.weak,
                "failed": record.failed,
                "wrong_tokens": record.wrong_tokens,
                "examples": [*record.examples, *(f"weak: {each}" for each in record.weak_examples)],
                "why_untested": record.why_untested if record.verdict is Grade.UNTESTED else "",
            }
            for each, record in self.records.items()
        ]


def _add_example(examples: list[str], text: str) -> None:
    if len(examples) < MAX_EXAMPLES and text not in examples:
        examples.append(text)
