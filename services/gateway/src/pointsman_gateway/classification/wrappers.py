"""The text that clients and frameworks write around a user's own words, which `wrappers.toml` and the user list."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

Marks = tuple[str, str]
"""What a span begins and ends with; with an end of "" it reaches to the end of the text."""


@dataclass(frozen=True, slots=True)
class Wrapper:
    """How one client wraps a user's text."""

    name: str
    signs: tuple[str, ...] = ()
    """Substrings by which the client is recognized: each of its texts has all of them."""
    drop: tuple[Marks, ...] = ()
    """Spans that are not the user's; their marks are dropped, too."""
    user: tuple[Marks, ...] = ()
    """Spans of the user's text. The last one in the text counts, and everything else is not the user's."""

    def unwrap(self, text: str) -> str:
        """Returns the user's part of the text, which may be empty; the text unchanged if it is not of this client."""
        if not all(sign in text for sign in self.signs):
            return text
        for marks in self.drop:
            text = _drop(text, marks)
        return _last(text, self.user)


def known_wrappers() -> list[Wrapper]:
    """Returns the wrappers of known clients."""
    return [to_wrapper(entry) for entry in wrappers_file()["wrappers"]]


@lru_cache(maxsize=1)
def wrappers_file() -> dict[str, Any]:
    """Returns the content of `wrappers.toml`."""
    return tomllib.loads(files(__package__).joinpath("wrappers.toml").read_text("utf-8"))


def to_wrapper(entry: Any) -> Wrapper:
    """Converts an entry of the file or of a configuration: a mapping with Wrapper's fields."""
    drop, user = (tuple((begin, end) for begin, end in entry.get(key, ())) for key in ("drop", "user"))
    return Wrapper(entry["name"], tuple(entry.get("signs", ())), drop, user)


def unwrap(text: str, wrappers: Sequence[Wrapper]) -> tuple[str, list[str]]:
    """Returns the user's part of a text, and the names of the wrappers that were around it, the outermost first."""
    names = []
    for wrapper in wrappers:
        inner = wrapper.unwrap(text)
        if inner != text:
            text = inner.strip()
            names.append(wrapper.name)
    return text, names


def _drop(text: str, marks: Marks) -> str:
    """Returns the text without the spans between the marks; a span that does not end is kept."""
    begin, end = marks
    kept, at = [], 0
    while (first := text.find(begin, at)) >= 0:
        last = text.find(end, first + len(begin)) if end else len(text)
        if last < 0:
            break
        kept.append(text[at:first])
        at = last + len(end)
    return "\n".join([*kept, text[at:]]) if kept else text


def _last(text: str, spans: Sequence[Marks]) -> str:
    """Returns what is in the last span of the text; the whole text if there is none. A span's end may be missing."""
    best, inner = -1, text
    for begin, end in spans:
        at = text.rfind(begin)
        if at < 0:
            continue
        first = at + len(begin)
        last = text.find(end, first)
        found = text[first:last] if last >= 0 and end else text[first:]
        if at > best or (at == best and len(found) < len(inner)):
            best, inner = at, found
    return inner
