"""Finds what a person wrote in an e-mail: the text without the headers, the greeting, the signature and quoted e-mails.

The phrases of `labels.toml` are in several languages. Quoted e-mails are also found by their form alone.
"""

import re
from collections.abc import Sequence
from itertools import takewhile

from pointsman_gateway.classification.authors import Author, author_of, instructs_model
from pointsman_gateway.classification.wrappers import labels_file

MAX_GREETING_WORDS = 6
MAX_CLOSING_WORDS = 6
MAX_BEFORE_CLOSING_WORDS = 14
"""Maximum number of words of a line that leads to the closing, such as "I look forward to your reply"."""
MAX_WORDS_BY_FORM = 4
MAX_SIGNATURE_LINES = 12
"""A closing such as "kind regards" ends the message only if at most this many lines, its own included, are left."""
MAX_HEADERS = 8
MIN_HEADERS = 2
"""A header name of fewer than `_MIN_LETTERS_OF_HEADER` letters counts only in a run of this many header-like lines."""

_FILE = labels_file()["mail"]
_QUOTE = re.compile("|".join(_FILE["quotes"]), re.IGNORECASE)
_FORWARD = re.compile("|".join(_FILE["forwards"]), re.IGNORECASE)
_DASHED = re.compile(r"[-_]{2,}\s{0,9}[^\W\d_].{2,60}?\s{0,9}[-_]{2,}\s*$")
_HEADER = re.compile(r"(?P<name>[^\W\d_][\w-]{0,19}(?: [\w-]{1,12}){0,2})[:：](?: |$|(?<=：))")
_SIGNATURE = re.compile("|".join(_FILE["signatures"]), re.IGNORECASE)
_HEADERS = frozenset(_FILE["headers"])
_SUBJECTS = frozenset(_FILE["subjects"])
_COMMAS = (",", "，", "、", "،")
_NAME = re.compile(r"(?:[^\W\d_a-z][\w.'’-]{0,20} ?){1,3}")
_MIN_LETTERS_OF_HEADER = 3
"""A shorter name in Latin letters, such as "A", is a header only if the next line is a header, too."""


def _any_of(phrases: Sequence[str]) -> str:
    return "|".join(map(re.escape, sorted(phrases, key=len, reverse=True)))


_GREETING = re.compile(rf"(?:{_any_of(_FILE['greetings'])})(?!\w)[^.?!:;]{{0,60}}[,!:.，：！。、]?", re.IGNORECASE)
_CLOSING = re.compile(rf"(?:{_any_of(_FILE['closings'])})[,.!，。！]?", re.IGNORECASE)
_BEFORE_CLOSING = re.compile(rf"(?:{_any_of(_FILE['before_closings'])})(?!\w)", re.IGNORECASE)


def own_words(mail: str) -> str:
    """Returns the words that a person wrote in an e-mail, or in any other text that may have a greeting.

    Removes headers, greeting, signature, quoted e-mails, and white space at both ends. If the text forwards another
    e-mail, returns only the words of the forwarded one. Returns the text unchanged if there is nothing but white space
    to remove, or if nothing would be left.
    """
    lines = _body(mail.strip().split("\n"))
    own = _without_signature(_without_quotes(lines))
    has_greeting = False
    closed = _without_name(own)
    while own and (not own[0].strip() or _greets(own[0]) or (len(closed) < len(own) and _greets_by_form(own))):
        has_greeting = has_greeting or bool(own[0].strip())
        own, closed = own[1:], closed[1:]
    text = "\n".join(closed if has_greeting else own).strip()
    return text if text and text != mail.strip() else mail


def _body(lines: list[str]) -> list[str]:
    """Returns the lines after the headers; if the mail forwards another one, those after the headers of the other. If
    no text would be left, returns all lines.
    """
    forwarded = next((number for number, line in enumerate(lines) if _FORWARD.match(line)), None)
    first = _first_header(lines) if forwarded is None else forwarded + 1
    if first is None:
        return lines
    while first < len(lines) and (_is_header(lines[first]) or (forwarded == first - 1 and not lines[first].strip())):
        first += 1
    return lines[first:] if any(map(str.strip, lines[first:])) else lines


def _first_header(lines: Sequence[str]) -> int | None:
    """Returns the number of the line with which the headers of a mail begin; None if there are none.

    Text before the headers is allowed only if it is an instruction to a model.
    """
    number = next((number for number in range(len(lines)) if _begins_with_headers(lines[number:])), None)
    return number if number == 0 or (number and instructs_model("\n".join(lines[:number]))) else None


def _are_of_mail(lines: Sequence[str]) -> bool:
    """Returns whether lines begin with the headers of a mail: one of them must be a subject or contain an address.

    Otherwise they may be a person's own lines, such as "from: Boston" and "to: Denver".
    """
    headers = list(takewhile(_header_name, lines))
    return any("@" in line or _header_name(line) in _SUBJECTS for line in headers)


def _is_header(line: str) -> bool:
    """Returns whether a line looks like a mail's header. A field that is named as the user's words is none."""
    name = _header_name(line)
    return bool(name) and author_of(name) is not Author.USER


def _begins_with_headers(lines: Sequence[str]) -> bool:
    name = _header_name(lines[0])
    is_sure = len(name) >= _MIN_LETTERS_OF_HEADER or not name.isascii()
    return name in _HEADERS and (is_sure or all(map(_header_name, lines[:MIN_HEADERS])))


def _header_name(line: str) -> str:
    found = _HEADER.match(line)
    return found["name"].lower() if found else ""


def _greets(line: str) -> bool:
    return len(line.split()) <= MAX_GREETING_WORDS and bool(_GREETING.fullmatch(line.strip()))


def _greets_by_form(lines: Sequence[str]) -> bool:
    """Returns whether the first line looks like a greeting in any language, and a blank line follows.

    A greeting is a few words that end with a comma, or with an exclamation mark if the line has letters that are not
    ASCII.
    """
    line = lines[0].rstrip()
    return (
        len(line.split()) <= MAX_WORDS_BY_FORM
        and line.endswith(_COMMAS if line.isascii() else (*_COMMAS, "!", "！"))
        and len(lines) > 2
        and not lines[1].strip()
    )


def _without_name(lines: list[str]) -> list[str]:
    """Returns the lines without a last paragraph that closes a mail in any language.

    Such a paragraph is a name, or a few words and a comma with lines of few words below.
    """
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    blank = next((number for number in range(len(lines) - 1, 0, -1) if not lines[number].strip()), None)
    if blank is None:
        return lines
    last = [line.strip() for line in lines[blank + 1 :]]
    is_brief = len(last) <= MAX_SIGNATURE_LINES and all(len(line.split()) <= MAX_WORDS_BY_FORM for line in last)
    closes = len(last) > 1 and last[0].endswith(_COMMAS)
    return lines[:blank] if is_brief and (closes or (len(last) == 1 and _NAME.fullmatch(last[0]))) else lines


def _without_quotes(lines: list[str]) -> list[str]:
    """Returns the lines without a quoted mail; all lines if no line introduces a quoted mail.

    The line that introduces the quoted mail is removed. If lines below begin with ">", they are removed, and other
    lines stay. If none does, all lines below are removed.
    """
    first = next((number for number in range(1, len(lines)) if _introduces_quote(lines, number)), None)
    if first is None and any(line.startswith(">") for line in lines) and _introduces_quote(lines, 0):
        first = 0
    if first is None:
        return lines
    if any(line.startswith(">") for line in lines[first:]):  # the answer may be below what it quotes
        return [*lines[:first], *(line for line in lines[first + 1 :] if not line.startswith(">"))]
    return lines[:first]


def _introduces_quote(lines: Sequence[str], number: int) -> bool:
    """Returns whether a line introduces a quoted mail, by its words or by the lines below.

    A line with an address or a time introduces a quotation that follows, and a title between dashes introduces headers.
    """
    line = lines[number]
    if _QUOTE.match(line):
        return not _is_header(line) or _are_of_mail(lines[number : number + MAX_HEADERS])
    if line.rstrip().endswith((":", "：")):
        following = next(filter(str.strip, lines[number + 1 : number + 3]), "")
        return following.startswith(">") and ("@" in line or any(map(str.isdigit, line)))
    return bool(_DASHED.match(line)) and any(_header_name(one) in _HEADERS for one in lines[number + 1 : number + 3])


def _without_signature(lines: list[str]) -> list[str]:
    """Returns the lines before the signature, the closing and the sentence that leads to it."""
    for number, line in enumerate(lines[1:], start=1):
        if _SIGNATURE.match(line):
            return _without_signature(lines[:number])
        is_near_end = len(lines) - number <= MAX_SIGNATURE_LINES and any(map(str.strip, lines[1:number]))
        if is_near_end and (_closes(line) or _leads_to_closing(line)):
            return lines[:number]
    return lines


def _closes(line: str) -> bool:
    stripped = line.strip()
    return len(stripped.split()) <= MAX_CLOSING_WORDS and bool(_CLOSING.fullmatch(stripped))


def _leads_to_closing(line: str) -> bool:
    stripped = line.strip()
    return len(stripped.split()) <= MAX_BEFORE_CLOSING_WORDS and bool(_BEFORE_CLOSING.match(stripped))
