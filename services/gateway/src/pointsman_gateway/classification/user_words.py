"""Finds the user's own words in a message of the user, without the text that clients write around them.

Only the classifier uses the result; prompts, guardrails, caches and rules use the whole message. Every gateway and
every replay with the same configuration finds the same words.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

from pointsman_gateway.classification.authors import Author
from pointsman_gateway.classification.chat_log import label_messages
from pointsman_gateway.classification.excerpt import CHARACTERS_PER_END, is_binary
from pointsman_gateway.classification.html_text import html_to_text
from pointsman_gateway.classification.mail import own_words
from pointsman_gateway.classification.mime import mime_to_text
from pointsman_gateway.classification.part_choice import Glance, choose_parts
from pointsman_gateway.classification.parts import split_into_parts
from pointsman_gateway.classification.wrappers import Wrapper, labels_file, marks_of, unwrap

MAX_CHARACTERS_PER_END = 8_192
MAX_LINES_PER_END = 250
"""Of a text with more than twice this number of lines, only this many lines at each end are searched.

The limit bounds the time of the search.
"""

MAX_CACHED, MAX_CACHED_CHARACTERS = 2_048, 600
"""Maximum number of earlier turns whose results are cached, and maximum number of characters of such a turn.

Clients send the earlier turns of a conversation again with each request. The cache takes at most 5 MB.
"""

_LABELS = labels_file()["labels"]
_SOME_BEFORE = "|".join(map(re.escape, _LABELS["before"]))
_SOME_AFTER = "|".join(map(re.escape, _LABELS["after"]))
_BEFORE = re.compile(rf"^[ \t#*]*(?:{_SOME_BEFORE})[ \t*]*[:：][ \t*]*", re.IGNORECASE | re.MULTILINE)
_AT_END = re.compile(rf"\b(?:{_SOME_AFTER})\s{{0,9}}[:：]$", re.IGNORECASE)
_LABEL = re.compile(r"^[ \t]{0,20}[A-Z][\w -]{0,30}[:：][ \t\n]", re.MULTILINE)
_ARROWS = ("->", "=>", "→")
_LAST_ARROW = re.compile(
    rf"^(?P<text>.{{1,2000}}?)[ \t]{{0,20}}(?P<arrow>{'|'.join(_ARROWS)})[ \t]{{0,20}}\s{{0,20}}\Z", re.MULTILINE
)
_CUE = re.compile(rf"(?:^|(?<=[\s.!?:]))(?:{'|'.join(map(re.escape, _LABELS['cues']))})[.!:]*", re.IGNORECASE)
_QUOTES = {'"': '"', "\N{LEFT DOUBLE QUOTATION MARK}": "\N{RIGHT DOUBLE QUOTATION MARK}"}
_PLAIN = re.compile(r"(?:[^\n<>&:：#*{\[|“„«「\"]++|(?<=[0-9]):(?=[0-9]))*+")
"""Matches a text that has no structure and no mark of a known client; it may contain times of day, such as 12:30."""


@dataclass(frozen=True, slots=True)
class UserWords:
    text: str
    """The user's own words; empty if the text has none."""
    characters: int
    """The number of characters of the whole message."""
    wrappers: tuple[str, ...] = ()
    """The names of the wrappers (texts of a client around the user's words) that were removed."""
    rivals: tuple[str, ...] = ()
    """Other parts of the text that may be the user's words as well, and seem to be about other tasks."""

    def __str__(self) -> str:
        return f"read {len(self.text)} of {self.characters} characters: {', '.join(self.wrappers)}"


class UserWordsFinder:
    def __init__(
        self, own: Sequence[Wrapper] = (), known: Sequence[Wrapper] = (), glance: Glance | None = None
    ) -> None:
        """Takes the wrappers (texts of clients around the user's words) of the configuration, `own`, and those of known
        clients, `known`, both in the order in which they are removed.

        `glance` scores the parts of a text. If it is None, texts are not split into parts.
        """
        self._own, self._known = own, known
        self._known_marks = marks_of(known)
        self._restarts = tuple(text for wrapper in (*own, *known) for text in wrapper.restart)
        self._glance = glance
        self._known_turn = lru_cache(MAX_CACHED)(partial(self._find, may_judge=False))

    def find(self, text: str, may_judge: bool = True) -> UserWords:
        """Returns the user's own words in a text, and the names of the wrappers that were removed.

        If nothing was removed, the words are the whole text. Binary data is returned unchanged. If something is removed
        from a long text, the result comes from its two ends only (`MAX_CHARACTERS_PER_END`, `MAX_LINES_PER_END`).

        With `may_judge`, a structured text is also split into parts, and only the part that is most likely the user's
        is returned; this takes about 3 ms at most. Without `may_judge`, results for texts of up to
        `MAX_CACHED_CHARACTERS` are cached.
        """
        if not may_judge and len(text) <= MAX_CACHED_CHARACTERS:
            return self._known_turn(text)
        return self._find(text, may_judge)

    def restarts(self, text: str) -> bool:
        """Returns whether a user message marks the real beginning of a conversation.

        Some clients send examples before the conversation, and begin its first message with a text of
        `Wrapper.restart`.
        """
        return text.startswith(self._restarts)

    def _find(self, text: str, may_judge: bool) -> UserWords:
        if is_binary(text[:CHARACTERS_PER_END]):
            return UserWords(text, len(text))
        found, names = unwrap(_ends(text), self._own)
        if _PLAIN.fullmatch(found):
            found, more = _stripped(found, {"quotes": _without_quotes, "label": _without_cue})
            names += more
            return UserWords(found if names else text, len(text), tuple(names))
        more = []
        if any(map(found.__contains__, self._known_marks)):
            found, more = unwrap(found, self._known)
        found, yet_more = _stripped(found, _STRIPS)
        names += [*more, *yet_more]
        glance = self._glance if may_judge else None
        parts = split_into_parts(found) if glance else []
        count = sum(not part.is_whole for part in parts)
        is_split = count > 1 or count == len(parts) or any(part.author is Author.USER for part in parts)
        chosen = choose_parts(parts, glance) if glance and is_split else []
        if not chosen or chosen[0].is_whole:
            return UserWords(found if names else text, len(text), tuple(names))
        names.append(f"one of {count} parts" if count > 1 else "markup")
        found, *rivals = [part.text for part in chosen]
        return UserWords(found, len(text), tuple(names), tuple(rivals))


def _stripped(text: str, strips: Mapping[str, Callable[[str], str]]) -> tuple[str, list[str]]:
    """Applies the functions one after another; returns the text, and the names of those that changed it."""
    names = []
    for name, strip in strips.items():
        inner = strip(text)
        if inner != text:
            text = inner
            names.append(name)
    return text, names


def _ends(text: str) -> str:
    """Returns a text whole, or only the beginning and the end of a long text."""
    if len(text) > 2 * MAX_CHARACTERS_PER_END:
        text = f"{text[:MAX_CHARACTERS_PER_END]}\n{text[-MAX_CHARACTERS_PER_END:]}"
    if text.count("\n") > 2 * MAX_LINES_PER_END:
        lines = text.split("\n")
        text = "\n".join([*lines[:MAX_LINES_PER_END], *lines[-MAX_LINES_PER_END:]])
    return text


def _without_label(text: str) -> str:
    """Returns the text after a label such as "Question:" at its beginning, without a cue such as "think step by step".

    Of a prompt with several examples that ends in "Answer:" or in an arrow, returns the text of the last example, whose
    answer is missing.
    """
    arrow = _LAST_ARROW.search(text) if any(map(text.__contains__, _ARROWS)) else None
    if arrow and text.count(arrow["arrow"]) > 1:
        return arrow["text"].strip(" \t\"'")
    inner = text.rstrip()
    labels = list(_BEFORE.finditer(inner))
    has_examples = len({label[0].strip().lower() for label in labels}) == 1 < len(labels) and _AT_END.search(inner)
    is_all = len(labels) == 1 and not inner[: labels[0].start()].strip() and not _LABEL.search(inner, labels[0].end())
    if has_examples or is_all:
        inner = inner[labels[-1].end() :]
    inner = _without_cue(inner).rstrip()
    inner = _AT_END.sub("", inner).strip() if inner.endswith((":", "：")) else inner.strip()
    return inner if inner and inner != text.strip() else text


def _without_quotes(text: str) -> str:
    """Returns the text without quotation marks around the whole of it."""
    end = _QUOTES.get(text[:1])
    is_quoted = end is not None and len(text) > 2 and text.endswith(end) and text.find(end, 1) == len(text) - 1
    return text[1:-1] if is_quoted else text


def _without_cue(text: str) -> str:
    lowered = text.lower()
    if not any(map(lowered.__contains__, _LABELS["cues"])):  # the pattern takes ten times as long
        return text
    inner = _CUE.sub("", text)
    return inner.strip() if inner != text and inner.strip() else text


_STRIPS = {
    "raw e-mail": mime_to_text,
    "html": html_to_text,
    "e-mail": own_words,
    "chat log": label_messages,
    "quotes": _without_quotes,
    "label": _without_label,
}
"""Functions that remove text around the user's words, in the order of their application, by the name in the note."""
