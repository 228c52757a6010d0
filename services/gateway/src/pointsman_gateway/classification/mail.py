"""Finds what a person wrote in an e-mail: without greeting, signature and what it quotes."""

import re

from pointsman_gateway.classification.wrappers import wrappers_file

MAX_GREETING_WORDS = 6
MAX_CLOSING_WORDS = 5
MAX_SIGNATURE_LINES = 12
"""A closing with more lines after it is part of the message."""

_FILE = wrappers_file()["mail"]
_GREETING = re.compile(rf"(?:{'|'.join(map(re.escape, _FILE['greetings']))})\b[^.?!:;]{{0,60}}[,!:.]?", re.IGNORECASE)
_CLOSING = re.compile(rf"(?:{'|'.join(map(re.escape, _FILE['closings']))})[,.!]?", re.IGNORECASE)
_QUOTE = re.compile("|".join(_FILE["quotes"]), re.IGNORECASE)
_SIGNATURE = re.compile("|".join(_FILE["signatures"]), re.IGNORECASE)


def own_words(mail: str) -> str:
    """Returns the lines that the sender wrote; the text itself if it does not look like an e-mail."""
    lines = mail.strip().split("\n")
    if len(lines) < 2:
        return mail
    own = _without_signature(_without_quotes(lines))
    greets = bool(own) and len(own[0].split()) <= MAX_GREETING_WORDS and bool(_GREETING.fullmatch(own[0].strip()))
    own = own[1:] if greets else own
    if len(own) == len(lines) or not any(map(str.strip, own)):
        return mail
    return "\n".join(own).strip()


def _without_quotes(lines: list[str]) -> list[str]:
    """Drops what a mail quotes: lines that begin with ">", or else the thread below the line that introduces it."""
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
