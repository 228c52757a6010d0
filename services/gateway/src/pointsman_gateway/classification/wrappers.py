"""Removes the text that clients and frameworks write around a user's own words.

`wrappers.toml` describes known clients; `classifier.wrappers` in tasks.yaml may describe others. `labels.toml` has
words and phrases by which the text of other clients is recognized.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

Marks = tuple[str, str]
"""The substrings with which a span of a text begins and ends. If the second one is "", the span ends with the text."""


@dataclass(frozen=True, slots=True)
class Wrapper:
    """Describes how one client wraps a user's own words in other text."""

    name: str
    signs: tuple[str, ...] = ()
    """Substrings that every text of the client contains. Without signs, any text may be the client's."""
    unless: tuple[str, ...] = ()
    """Substrings that no text of the client contains."""
    drop: tuple[Marks, ...] = ()
    """Marks of spans that are not the user's words. These spans are removed, including the marks."""
    user: tuple[Marks, ...] = ()
    """Marks of spans of the user's words. If a text has such spans, only the content of the last one is kept."""
    restart: tuple[str, ...] = ()
    """The first message of the real conversation begins with one of these texts. Messages before it are examples."""

    def unwrap(self, text: str) -> str:
        """Returns the user's words in a text of this client; returns another client's text unchanged.

        The text is this client's if it contains all of `signs` and none of `unless`. The spans of `drop` are removed.
        If the rest has spans of `user`, only the content of the last one is returned. The result may be empty.
        """
        if not all(sign in text for sign in self.signs) or any(sign in text for sign in self.unless):
            return text
        for marks in self.drop:
            text = _drop(text, marks)
        return _last(text, self.user)


def marks_of(wrappers: Sequence[Wrapper]) -> tuple[str, ...]:
    """Returns substrings for a quick check: a text that contains none of them is not changed by any of the wrappers."""
    return tuple(
        dict.fromkeys(
            mark
            for wrapper in wrappers
            for mark in wrapper.signs[:1] or [begin for begin, _ in (*wrapper.drop, *wrapper.user)]
        )
    )


def known_wrappers() -> list[Wrapper]:
    """Returns the wrappers in `wrappers.toml`, in its order."""
    return [to_wrapper(entry) for entry in _parsed("wrappers.toml")["wrappers"]]


def labels_file() -> dict[str, Any]:
    """Returns the parsed content of `labels.toml`, which is cached: do not modify it."""
    return _parsed("labels.toml")


@lru_cache(maxsize=2)
def _parsed(name: str) -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath(name).read_text("utf-8"))


def to_wrapper(entry: Any) -> Wrapper:
    """Makes a Wrapper from an entry of `wrappers.toml` or of the configuration: a mapping with the fields of Wrapper,
    of which only `name` is required. Ignores other keys.
    """
    drop, user = (tuple((begin, end) for begin, end in entry.get(key, ())) for key in ("drop", "user"))
    signs, unless, restart = (tuple(entry.get(key, ())) for key in ("signs", "unless", "restart"))
    return Wrapper(entry["name"], signs, unless, drop, user, restart)


def unwrap(text: str, wrappers: Sequence[Wrapper]) -> tuple[str, list[str]]:
    """Removes wrappers one after another. Returns the user's words, without white space at both ends if a wrapper was
    removed, and the names of the removed wrappers in the order of their removal.
    """
    names = []
    for wrapper in wrappers:
        inner = wrapper.unwrap(text)
        if inner != text:
            text = inner.strip()
            names.append(wrapper.name)
    return text, names


def _drop(text: str, marks: Marks) -> str:
    """Returns the text with each span, including its marks, replaced by a line break. A span without its end mark is
    kept.
    """
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
    """Returns the content of the last span in the text; the whole text if there is no span.

    A span whose end mark is missing reaches to the end of the text.
    """
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
