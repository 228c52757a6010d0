"""Finds text that clients write around their users' words (wrappers), by comparing many messages.

Messages that begin or end alike are compared token by token. The tokens that all of them have in the same order are the
client's text. The user's words are the shortest part before, between or after the client's texts that differs in most
messages and is long enough for a sentence.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from statistics import median

from pointsman_gateway.classification.wrappers import Wrapper

MIN_TEXTS = 10
"""Fewer messages that begin or end alike are not searched for a wrapper."""
MIN_COMMON_CHARACTERS = 30
"""The minimum length of the text of a wrapper, because people's own questions may begin with the same few words,
too.
"""
MIN_PIECE_CHARACTERS = 6
"""The minimum length of each piece of a wrapper's text; shorter pieces count if they have a line break or end all
messages.
"""
MIN_SHARE = 0.9
"""The minimum share of the messages in which a wrapper's marks (texts before and after the user's words) enclose
exactly these words.
"""
MIN_USER_WORDS = 3
"""The minimum median number of words in the part that differs; shorter parts are names and dates, not the user's
words.
"""
MAX_COMPARED_TEXTS = 40
MAX_TEXT_CHARACTERS = 4_000
"""Maximum length of a message; longer ones are not compared."""
ALIKE_CHARACTERS = 20
"""Messages are compared with each other if they have this many equal characters at the beginning or at the end."""
MAX_MARK_CHARACTERS = 60

_NUMBER = re.compile(r"\d+")
_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")

Pieces = list[str]


@dataclass(frozen=True, slots=True)
class FoundWrapper:
    """A wrapper (text that a client writes around its user's words) that was found in messages."""

    wrapper: Wrapper
    texts: int
    """The number of different messages that have the wrapper."""
    read: tuple[str, ...]
    """For some of these messages, the text inside the wrapper, which is all that the classifier would read."""


def find_wrappers(texts: Sequence[str]) -> list[FoundWrapper]:
    """Finds the wrappers (texts that clients write around users' words) in messages, the most frequent one first.

    A message counts for one wrapper only.
    """
    left = dict.fromkeys(text for text in texts if len(text) <= MAX_TEXT_CHARACTERS)
    found: list[FoundWrapper] = []
    for end in (_beginning, _ending):
        for alike in _alike(list(left), end):
            one = _find_in([text for text in alike if text in left])
            if one is None:
                continue
            wrapper = one.with_name(_free_name(one, found))
            read = {text: inner for text in left if (inner := wrapper.unwrap(text).strip()) != text.strip() and inner}
            found.append(FoundWrapper(wrapper, len(read), tuple(list(read.values())[:3])))
            left = dict.fromkeys(text for text in left if text not in read)
    return sorted(found, key=lambda one: -one.texts)


def to_entry(wrapper: Wrapper) -> dict[str, object]:
    """Returns the wrapper as an entry of `classifier.wrappers` in tasks.yaml."""
    entry: dict[str, object] = {"name": wrapper.name}
    for key in ("signs", "user", "drop"):
        value = getattr(wrapper, key)
        if value:
            entry[key] = [list(one) if isinstance(one, tuple) else one for one in value]
    return entry


@dataclass(frozen=True, slots=True)
class _Marks:
    """The text around the user's words: a mark before them, after them, or both."""

    before: str
    after: str
    first: str
    """The first piece that all messages have."""

    def with_name(self, name: str) -> Wrapper:
        signs = (self.first,) if self.first not in (self.before, self.after) else ()
        if self.before:
            return Wrapper(name, signs, user=((self.before, self.after),))
        return Wrapper(name, signs, drop=((self.after, ""),))


def _beginning(text: str) -> str:
    return _NUMBER.sub("0", text)[:ALIKE_CHARACTERS]


def _ending(text: str) -> str:
    return _NUMBER.sub("0", text)[-ALIKE_CHARACTERS:]


def _alike(texts: Sequence[str], end: Callable[[str], str]) -> Iterator[list[str]]:
    """Yields groups of messages with the same beginning or end apart from numbers, the largest first."""
    groups = defaultdict[str, list[str]](list)
    for text in texts:
        groups[end(text)].append(text)
    yield from sorted((group for group in groups.values() if len(group) >= MIN_TEXTS), key=len, reverse=True)


def _find_in(texts: Sequence[str]) -> _Marks | None:
    """Returns the marks around the user's words in messages that begin or end alike; None if no marks are found."""
    if len(texts) < MIN_TEXTS:
        return None
    pieces = _common_pieces(texts)
    if sum(map(len, pieces)) < MIN_COMMON_CHARACTERS:
        return None
    slots = {text: parts for text in texts if (parts := _between(text, pieces)) is not None}
    if len(slots) < MIN_SHARE * len(texts):
        return None
    chosen = _users_slot(list(slots.values()))
    if chosen is None:
        return None
    before = _last_mark(pieces[chosen - 1]) if chosen else ""
    after = _first_mark(pieces[chosen]) if chosen < len(pieces) else ""
    marks = _Marks(before, after, _first_mark(pieces[0]))
    wrapper = marks.with_name("")
    right = sum(wrapper.unwrap(text).strip() == parts[chosen].strip() for text, parts in slots.items())
    return marks if right >= MIN_SHARE * len(texts) else None


def _common_pieces(texts: Sequence[str]) -> Pieces:
    """Returns the pieces of text that all messages have in the same order."""
    step = max(1, len(texts) // MAX_COMPARED_TEXTS)
    first, *others = texts[::step][:MAX_COMPARED_TEXTS]
    pieces = [first]
    for other in others:
        pieces = _common(pieces, other)
        if not pieces:
            break
    return pieces


def _common(pieces: Pieces, text: str) -> Pieces:
    tokens: list[str | None] = []
    for piece in pieces:
        tokens += [*_TOKEN.findall(piece), None]  # so that no common piece spans two
    matcher = SequenceMatcher(None, tokens, _TOKEN.findall(text), autojunk=False)
    *blocks, _ = matcher.get_matching_blocks()
    found = ["".join(filter(None, tokens[block.a : block.a + block.size])) for block in blocks]
    return [
        piece
        for number, piece in enumerate(found, 1)
        if _is_piece(piece, is_end=number == len(found) and text.endswith(piece))
    ]


def _is_piece(piece: str, *, is_end: bool) -> bool:
    """Returns whether a common text counts as a piece of a client's text: if it is long, has a line break, or ends the
    messages.
    """
    return len(piece.strip()) >= MIN_PIECE_CHARACTERS or "\n" in piece or (is_end and bool(piece.strip()))


def _between(text: str, pieces: Pieces) -> list[str] | None:
    """Returns the texts before, between and after the pieces in `text`; None if it does not have all pieces in
    order.
    """
    slots, at = [], 0
    for piece in pieces:
        first = text.find(piece, at)
        if first < 0:
            return None
        slots.append(text[at:first])
        at = first + len(piece)
    return [*slots, text[at:]]


def _users_slot(slots: Sequence[Sequence[str]]) -> int | None:
    """Returns the position of the shortest part that differs in most messages and is long enough for a sentence."""
    lengths: dict[int, float] = {}
    for position, parts in enumerate(zip(*slots, strict=True)):
        filled = [part.strip() for part in parts if part.strip()]
        words = median(len(part.split()) for part in parts)
        if len(filled) >= MIN_SHARE * len(parts) and len(set(filled)) >= len(parts) / 2 and words >= MIN_USER_WORDS:
            lengths[position] = median(map(len, filled))
    return min(lengths, key=lengths.__getitem__) if lengths else None


def _last_mark(piece: str) -> str:
    """Returns the end of a piece: its last line that is not blank, with the blank text after the line."""
    at = piece.rstrip().rfind("\n") + 1
    return piece[at:][-MAX_MARK_CHARACTERS:]


def _first_mark(piece: str) -> str:
    """Returns the beginning of a piece: its first line that is not blank, with the line break before the line."""
    stripped = piece.lstrip()
    end = stripped.find("\n")
    begin = len(piece) - len(stripped)
    return piece[max(0, begin - 1) : begin + (end if end >= 0 else len(stripped))][:MAX_MARK_CHARACTERS]


def _free_name(marks: _Marks, found: Sequence[FoundWrapper]) -> str:
    """Returns a name that is made of the first words of the common text, and that no found wrapper has."""
    name = "-".join(re.findall(r"[a-z]+", marks.first.lower())[:3]) or "client"
    taken = {one.wrapper.name for one in found}
    number = 2
    while name in taken:
        name = f"{name.rstrip('0123456789-')}-{number}"
        number += 1
    return name
