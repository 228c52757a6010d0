"""The result of one check."""

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    level: Level
    what: str  # what was checked: "memory"
    detail: str  # what was found and, if it is not enough, what to do


def ok(what: str, detail: str) -> Finding:
    return Finding(Level.OK, what, detail)


def warn(what: str, detail: str) -> Finding:
    return Finding(Level.WARN, what, detail)


def fail(what: str, detail: str) -> Finding:
    return Finding(Level.FAIL, what, detail)
