"""Finds a user's own words in a structured text, such as a prompt that an unknown client has written around them.

The text is split at tags, headings, horizontal lines, blank lines, "label: value" lines and JSON fields. The
classifier's static stage scores how much each part resembles the examples of the tasks. The score is raised or lowered
if the name of a tag, heading, label or field shows the part's author. It is lowered if the part reads like an
instruction to a model, has few letters, or is of an unknown author and has few words.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import islice, takewhile
from typing import Any, TypeVar

from pointsman_gateway.classification.wrappers import wrappers_file

MAX_PARTS_PER_END = 24
"""Of a text with more than twice as many parts, only so many at each end are scored."""
MAX_BOUNDARIES = 400
MAX_SEARCHED = 2_048
"""Characters at each end of an unstructured text that are searched for an instruction to a model."""
MAX_PART_CHARACTERS = 600
MAX_JSON_CHARACTERS = 16_384
LONG_CHARACTERS = 240
"""Each sentence of a longer paragraph is a part of its own."""
MIN_LETTERS = 0.6
"""Share of letters among a part's characters, spaces excluded. A part with fewer counts as data, such as a list of
files, numbers or times."""

# What is added to a part's score. Chosen on the development messages of benchmarks/requests.
BONUS_OF_USER = 0.5
PENALTY_OF_OTHERS = 1.5
PENALTY_OF_INSTRUCTIONS = 1.0
PENALTY_OF_DATA = 1.0
PENALTY_OF_FEW_WORDS = 1.0
MIN_WORDS = 3
MAX_NAME_WORDS = 5
MAX_RIVALS = 2
MIN_LEAD = 0.5
"""A part about another task is a rival of the best part if its score is lower by at most this much."""

_FILE = wrappers_file()["parts"]
_INSTRUCTION = re.compile(
    rf"\b(?:{'|'.join(_FILE['instructions'])})\b|^(?:{'|'.join(_FILE['openings'])})\b", re.IGNORECASE
)
_TIME = r"\d{1,2}:\d{2}(?::\d{2})?(?:[ ]?[AaPp]\.?[Mm]\.?)?"
_BOUNDARY = re.compile(
    r"^<(?P<section>[A-Z][\w-]{0,30}(?: [\w-]{1,30}){1,4})>[ \t]{0,20}$"
    r"|<(?P<close>/?)(?P<tag>[A-Za-z_][\w.-]{0,60})(?:\s[^<>]{0,200})?>"
    r"|<\|[^|<>\n]{1,40}\|>"
    r"|^[ \t]{0,20}(?:[-=*_~#]{3,80}(?:[ \t].{1,60}[ \t][-=*_~#]{3,80})?[ \t]{0,20}|`{3}[\w.+-]{0,20}[ \t]{0,20})$"
    r"|`{3}"
    r"|^#{1,6}[ \t]+(?P<heading>.*)$"
    r"|^[ \t>*-]{0,20}(?P<label>[A-Za-z][^\n:.?!]{0,40}?)[ \t*]{0,4}:[ \t*]{0,20}(?:[|>][+-]?[ \t]{0,20})?$"
    rf"|^(?P<speaker>[A-Za-z][^\n:.?!]{{0,30}}?)[ \t]{{1,20}}{_TIME}[ \t]{{0,20}}$"
    r"|\n[ \t]{0,20}\n",
    re.MULTILINE,
)
_BOUNDARY_MARKS = ("\n", "<", "`")
"""A text without any of them is one line."""
_LINE = re.compile(
    rf"^[ \t>*-]{{0,20}}(?:[\[(]?[\d/., -]{{0,12}}{_TIME}[\])]?[ \t]{{1,20}}(?:[-–—][ \t])?)?"
    r"(?:(?P<label>[^\W\d][^\n:?!]{0,60}?)[ \t*\"']{0,4}:[ \t*]{1,20}"
    r"|(?P<key>[A-Za-z][\w.-]{0,40})[ \t]{0,4}=[ \t]{0,4})"
    r"(?P<value>\S.*)$",
    re.MULTILINE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?:])[\"')\]]*\s+|\n")
_QUOTES = " \t\n\"'“”«»„"
_MARKERS = re.compile(r"^[ \t]{0,20}(?:>|[-*•]|\d{1,2}[.)])[ \t]{1,20}", re.MULTILINE)
_FIELD = re.compile(r'\b(?P<label>[\w.-]{1,40})="(?P<value>[^"\n]*)"')
_WORD = re.compile(r"[^\W\d_]+")

Item = TypeVar("Item")
Glance = Callable[[str], tuple[str, float] | None]
"""A function that returns (most probable task of a text, in-distribution score of the text minus the task's threshold);
None if the text has no known word. `CascadeClassifier.glance` is such a function."""

_HEADERS = frozenset(_FILE["headers"])
_OF_MODEL, _PREPOSITIONS = frozenset(_FILE["of_model"]), frozenset(_FILE["prepositions"])


class Author(IntEnum):
    OTHERS = -1
    UNKNOWN = 0
    USER = 1


_AUTHORS = dict.fromkeys(_FILE["of_others"], Author.OTHERS) | dict.fromkeys(_FILE["of_user"], Author.USER)


@dataclass(frozen=True, slots=True)
class Part:
    text: str
    author: Author
    label: str = ""
    """The name of the label or field that the text is the value of; empty if there is none."""
    is_below_label: bool = False
    """Whether `author` comes from a label on a line above the text. A label within the text then replaces it."""


def split_into_parts(text: str) -> list[Part]:
    """Returns the parts of a text in order, each once; of too many, only those at both ends (`MAX_PARTS_PER_END`).

    A text without structure is one part. Blank lines count as structure only if the text instructs a model near its
    beginning or end, since people write paragraphs as well. Long sentences and JSON values are cut to
    `MAX_PART_CHARACTERS`.
    """
    blocks, is_structured = _blocks(text)
    ends = {text[:MAX_SEARCHED], text[-MAX_SEARCHED:]}  # of a short text one
    if not is_structured and not any(map(_INSTRUCTION.search, ends)):
        return [Part(text, Author.UNKNOWN)]
    return _both_ends(list(dict.fromkeys(part for block in blocks for part in _parts(block) if part.text)))


def _both_ends(items: list[Item]) -> list[Item]:
    return items if len(items) <= 2 * MAX_PARTS_PER_END else items[:MAX_PARTS_PER_END] + items[-MAX_PARTS_PER_END:]


def choose_parts(parts: Sequence[Part], glance: Glance) -> list[Part]:
    """Returns the part that is most likely the user's words, followed by its rivals; empty if no part has a known word.

    It is the part with the highest score: that of `glance`, raised or lowered as the module describes. Only parts whose
    author is known to be the user, and that are no instruction, compete, and of several with the same label only the
    last; if none of these has a known word, all parts compete. Rivals are up to `MAX_RIVALS` competing parts, best
    first, whose most probable task is another one, and whose score is lower by at most `MIN_LEAD`. There are none if
    the best score is below 0.
    """
    of_user = [part for part in parts if part.author is Author.USER and not _INSTRUCTION.search(part.text)]
    last = {part.label or number: part for number, part in enumerate(of_user)}  # of each label
    best = _judged([*last.values()], glance) or _judged(parts, glance)
    if not best:
        return []
    best.sort(key=lambda each: -each[0])
    score, task, part = best[0]
    rivals = [other for of_other, other_task, other in best if other_task != task and of_other >= score - MIN_LEAD]
    return [part, *(rivals[:MAX_RIVALS] if score >= 0 else ())]


def _judged(parts: Sequence[Part], glance: Glance) -> list[tuple[float, str, Part]]:
    """Returns (score, most probable task, part) for each part that has a known word. The score is that of `glance` with
    the part's bonus and penalties.
    """
    judged = [(glance(part.text), part) for part in parts]
    return [(found[1] + _addition(part), found[0], part) for found, part in judged if found]


def _addition(part: Part) -> float:
    """Returns what is added to a part's score: a bonus or penalty for its author, and penalties for an instruction, for
    data and for few words.
    """
    characters = "".join(part.text.split())
    is_data = sum(map(str.isalpha, characters)) < MIN_LETTERS * len(characters)
    of_author = {Author.USER: BONUS_OF_USER, Author.OTHERS: -PENALTY_OF_OTHERS}.get(part.author, 0.0)
    has_few_words = part.author is Author.UNKNOWN and len(_WORD.findall(part.text)) < MIN_WORDS
    of_kind = PENALTY_OF_INSTRUCTIONS * bool(_INSTRUCTION.search(part.text)) + PENALTY_OF_DATA * is_data
    return of_author - of_kind - PENALTY_OF_FEW_WORDS * has_few_words


def _blocks(text: str) -> tuple[list[Part], bool]:
    """Returns the blocks of a text, which are what its tags, headings, labels, horizontal lines and blank lines
    separate, and whether the text has any structure apart from blank lines. Blocks may be empty.
    """
    boundaries = list(islice(_boundaries(text), MAX_BOUNDARIES))
    closed = _closed_tags(boundaries)
    at, above, is_below_label = 0, Author.UNKNOWN, False
    is_structured = text[:1] in ("{", "[") or bool(_LINE.search(text) or ('="' in text and _FIELD.search(text)))
    open_tags: list[Author] = []
    blocks: list[Part] = []
    for boundary in boundaries:
        name = boundary["heading"] or boundary["label"] or boundary["speaker"] or boundary["section"]
        author = _author_of(boundary["tag"] or name or "", is_heading=bool(boundary["heading"]))
        blocks.append(_block(text[at : boundary.start()], open_tags, above, is_below_label))
        at = boundary.end()
        is_structured = is_structured or bool(boundary[0].strip())
        if boundary.start() in closed:
            if boundary["close"]:
                open_tags.pop()
                above = Author.UNKNOWN  # the heading was about what has ended
            else:  # what is within another's words is another's too, as a tag "text" within "document"
                open_tags.append(Author.OTHERS if Author.OTHERS in open_tags else author)
        elif name:
            above, is_below_label = author, bool(boundary["label"])
    blocks.append(_block(text[at:], open_tags, above, is_below_label))
    return blocks, is_structured


def _boundaries(text: str) -> Iterator[re.Match[str]]:
    if any(map(text.__contains__, _BOUNDARY_MARKS)):
        return _BOUNDARY.finditer(text)
    whole = _BOUNDARY.match(text)  # only a whole line can be one
    return iter([whole] if whole else [])


def _block(text: str, open_tags: Sequence[Author], above: Author, is_below_label: bool) -> Part:
    if open_tags:
        return Part(text.strip(), open_tags[-1])
    return Part(text.strip(), above, is_below_label=is_below_label)


def _closed_tags(boundaries: Sequence[re.Match[str]]) -> set[int]:
    """Returns the positions of the opening and closing tags that belong together. A tag without a partner is only
    mentioned, for example by an instruction.
    """
    found: set[int] = set()
    waiting: dict[str, list[int]] = {}
    for boundary in boundaries:
        tag = boundary["tag"]
        if tag and not boundary["close"]:
            waiting.setdefault(tag, []).append(boundary.start())
        elif tag and waiting.get(tag):
            found |= {waiting[tag].pop(), boundary.start()}
    return found


def _parts(block: Part) -> Iterator[Part]:
    """Splits a block into the texts of its JSON, into its NAME="value" fields if it has more than two, or into its
    "label: value" lines and the rest. If such a line or the rest is long or an instruction, each sentence is a part.
    """
    text = block.text
    if text[:1] in ("{", "[") and len(text) <= MAX_JSON_CHARACTERS:
        with suppress(ValueError, RecursionError):
            yield from _of_json(json.loads(text), block.author)
            return
    fields = list(_FIELD.finditer(text))
    if len(fields) > 2:
        for field in _both_ends(fields):
            yield Part(field["value"], _within(block.author, _author_of(field["label"])), field["label"])
        return
    at = 0
    for line in _LINE.finditer(text):
        yield from _sentences(Part(text[at : line.start()], block.author))
        label = line["label"] or line["key"]
        author = _author_of(label)
        if author is Author.UNKNOWN or not block.is_below_label:
            author = _within(block.author, author)
        yield from _sentences(Part(line["value"], author, label.lower()))
        at = line.end()
    yield from _sentences(Part(text[at:], block.author))


def _sentences(part: Part) -> Iterator[Part]:
    text = _MARKERS.sub("", part.text).strip(_QUOTES)
    if len(text) <= LONG_CHARACTERS and not _INSTRUCTION.search(text):
        yield replace(part, text=text)
        return
    for sentence in _both_ends(_SENTENCE_END.split(text)):
        yield replace(part, text=sentence[:MAX_PART_CHARACTERS].strip(_QUOTES))


def _of_json(value: Any, author: Author) -> Iterator[Part]:
    if isinstance(value, str):
        yield Part(value.strip()[:MAX_PART_CHARACTERS], author)
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _of_json(each, _within(author, _author_of(name)))
    elif isinstance(value, list):
        for each in value[: 2 * MAX_PARTS_PER_END]:
            yield from _of_json(each, author)


def _within(outer: Author, inner: Author) -> Author:
    """Returns the author of a part by its own name (`inner`) and by what encloses it: everything within a part of
    others is theirs.
    """
    return outer if outer is Author.OTHERS or inner is Author.UNKNOWN else inner


def _author_of(name: str, *, is_heading: bool = False) -> Author:
    """Returns the author that the name of a tag, heading, label or field shows for the text that follows it."""
    words = _WORD.findall(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    if len(words) > MAX_NAME_WORDS:  # a sentence
        return Author.UNKNOWN
    if " ".join(words) in _HEADERS:
        return Author.OTHERS
    head = list(takewhile(lambda word: word not in _PREPOSITIONS, words))  # "policy" of "policy for user messages"
    author = next((_AUTHORS[word] for word in reversed(head) if word in _AUTHORS), Author.UNKNOWN)
    is_of_prompt = is_heading and not _OF_MODEL.isdisjoint(words)
    return Author.UNKNOWN if is_of_prompt and author is Author.USER else author
