"""Finds what a person wrote in an e-mail: the text without the greeting, the signature and quoted e-mails."""

import re

from pointsman_gateway.classification.wrappers import wrappers_file

MAX_GREETING_WORDS = 6
MAX_CLOSING_WORDS = 5
MAX_SIGNATURE_LINES = 12
"""A closing such as "kind regards" is part of the message if there are more lines from it to the end."""

_FILE = wrappers_file()["mail"]
_GREETING = re.compile(rf"(?:{'|'.join(map(re.escape, _FILE['greetings']))})\b[^.?!:;]{{0,60}}[,!:.]?", re.IGNORECASE)
_CLOSING = re.compile(rf"(?:{'|'.join(map(re.escape, _FILE['closings']))})[,.!]?", re.IGNORECASE)
_QUOTE = re.compile("|".join(_FILE["quotes"]), re.IGNORECASE)
_FORWARD = re.compile("|".join(_FILE["forwards"]), re.IGNORECASE)
_HEADER = re.compile(r"[A-Za-zÀ-ÿ-]{2,20}: ?")
_FIRST_HEADER = re.compile(rf"(?:{'|'.join(_FILE['headers'])}): ", re.IGNORECASE)
_SIGNATURE = re.compile("|".join(_FILE["signatures"]), re.IGNORECASE)


def own_words(mail: str) -> str:
    """Returns the text without headers, greeting, signature, quoted e-mails, and white space at both ends. If the text
    forwards another e-mail, returns only the words of that one.

    Returns the text unchanged if there is nothing but white space to remove, or if nothing would be left. It need not
    be an e-mail: a greeting is removed from any text.
    """
    lines = _body(mail.strip().split("\n"))
    own = _without_signature(_without_quotes(lines))
    while own and (not own[0].strip() or _greets(own[0])):
        own = own[1:]
    text = "\n".join(own).strip()
    return text if text and text != mail.strip() else mail


def _body(lines: list[str]) -> list[str]:
    """Returns the lines after the headers; if the mail forwards another one, those after the headers of the other. If
    no text would be left, returns all lines.
    """
    forwarded = next((number for number, line in enumerate(lines) if _FORWARD.match(line)), None)
    if forwarded is None and not _FIRST_HEADER.match(lines[0]):
        return lines
    first = 0 if forwarded is None else forwarded + 1
    while first < len(lines) and (_HEADER.match(lines[first]) or (forwarded == first - 1 and not lines[first].strip())):
        first += 1
    return lines[first:] if any(map(str.strip, lines[first:])) else lines


def _greets(line: str) -> bool:
    return len(line.split()) <= MAX_GREETING_WORDS and bool(_GREETING.fullmatch(line.strip()))


def _without_quotes(lines: list[str]) -> list[str]:
    """Returns the lines without a quoted mail: without the first line that introduces one, and without the lines below
    it that begin with ">" or, if none does, without all lines below it. Returns all lines if none introduces a mail.
    """
    first = next((number for number, line in enumerate(lines) if number and _QUOTE.match(line)), None)
    if first is None:
        return lines
    if any(line.startswith(">") for line in lines[first:]):  # the answer may be below what it quotes
        return [*lines[:first], *(line for line in lines[first + 1 :] if not line.startswith(">"))]
    return lines[:first]


def _without_signature(lines: list[str]) -> list[str]:
    for number, line in enumerate(lines[1:], start=1):
        stripped = line.strip()
        if _SIGNATURE.match(line):
            return lines[:number]
        is_closing = len(stripped.split()) <= MAX_CLOSING_WORDS and _CLOSING.fullmatch(stripped)
        if is_closing and len(lines) - number <= MAX_SIGNATURE_LINES and any(map(str.strip, lines[1:number])):
            return lines[:number]
    return lines
