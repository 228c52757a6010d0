"""Finds a raw e-mail, with its full headers, in a text and decodes it to the text that its reader sees."""

import re
from email import message_from_string
from email.message import Message

from pointsman_gateway.classification.authors import instructs_model
from pointsman_gateway.classification.excerpt import encodable
from pointsman_gateway.classification.wrappers import labels_file

MAX_NESTED = 12
"""The most parts and forwarded messages that a decoded e-mail declares. An e-mail with more is not changed, since each
level of nesting costs time for every line.
"""

_HEADER = re.compile(r"(?P<name>[A-Za-z][A-Za-z0-9-]{1,40}):(?: .*)?")
_NESTED = re.compile("boundary=|message/", re.IGNORECASE)
_SHOWN = frozenset(("from", "to", "subject", "date"))
_TRANSPORT = frozenset(labels_file()["mail"]["transport_headers"])
_READABLE = ("text/plain", "text/html")
_ENCODED = ("quoted-printable", "base64")


def mime_to_text(text: str) -> str:
    """Replaces a raw e-mail at the end of a text by the first readable part of its body, decoded and without headers.

    Text before the e-mail is kept, unless it instructs a model to do something with the e-mail. A raw e-mail is
    recognized by its headers: at least two of From, To, Subject and Date, and one that mail programs hide, such as
    Received. Returns the text unchanged if it contains no raw e-mail, or one without a readable part.
    """
    start = _start(text)
    if start is None or len(_NESTED.findall(text)) > MAX_NESTED:
        return text
    body = _body(message_from_string(encodable(text[start:])))
    if not body:
        return text
    before = text[:start].strip()
    return f"{before}\n\n{body}" if before and not instructs_model(before) else body


def _start(text: str) -> int | None:
    """Returns the position at which the headers of a raw e-mail begin; None if the text contains no raw e-mail."""
    at, first, names = 0, 0, set[str]()
    for line in text.splitlines(keepends=True):
        header = _HEADER.fullmatch(line.rstrip())
        if header:
            first = first if names else at
            names.add(header["name"].lower())
        elif not (names and line[0] in " \t" and line.strip()):  # no header goes on
            if _are_of_mail(names):
                return first
            names.clear()
        at += len(line)
    return None


def _are_of_mail(names: set[str]) -> bool:
    return len(names & _SHOWN) > 1 and not names.isdisjoint(_TRANSPORT)


def _body(mail: Message) -> str:
    """Returns the decoded text of the first readable part, plain text before HTML; "" if no part is readable."""
    parts = [part for part in mail.walk() if part.get_content_disposition() != "attachment"]
    of_types = ([part for part in parts if part.get_content_type() == of_type] for of_type in _READABLE)
    return next((decoded for some in of_types for part in some if (decoded := _decoded(part))), "")


def _decoded(part: Message) -> str:
    payload = part.get_payload()
    if not isinstance(payload, str):
        return ""
    if payload.isascii() and str(part.get("content-transfer-encoding", "")).strip().lower() in _ENCODED:
        decoded = part.get_payload(decode=True)
        assert isinstance(decoded, bytes)  # of a part without parts
        try:
            payload = decoded.decode(part.get_content_charset("utf-8"), "replace")
        except LookupError:  # an unknown charset
            payload = decoded.decode("utf-8", "replace")
    return payload.strip()
