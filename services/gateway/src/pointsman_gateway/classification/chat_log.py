"""Rewrites a pasted chat log with times, in the format of one of many chat programs, as lines "speaker: text"."""

import re
from collections.abc import Sequence

from pointsman_gateway.classification.authors import Author, author_of

MIN_MESSAGES = 2
ASKING = "User"
MAX_CHARACTERS_AFTER = 40
"""A text ends with a chat log if at most this many characters follow the last message, such as "Bob is typing"."""
MAX_SPEAKER_CHARACTERS = 40

TIME = r"\d{1,2}:\d{2}(?::\d{2})?(?:[.,]\d{1,6})?(?:Z|[+-]\d{2}:?\d{2})?(?:[ \u202f]?[AaPp]\.?[Mm]\.?)?"
_SPEAKER = rf"(?P<speaker>[^\W\d][^\n:|<>()\[\]{{}}\"=]{{0,{MAX_SPEAKER_CHARACTERS}}}?|\+?\d[\d ()-]{{5,20}})"
_FORMS = (
    # [2026-12-01 10:12] Martha: text, 10:12 <martha> text, 10:12 AM | Martha: text, 10:12:01 martha> text
    rf"^[\[(]?[\d/.T, -]{{0,14}}{TIME}[\])]?[ \t|,]{{0,8}}(?:[-–—][ \t])?(?:\[[^\[\]\n]{{1,30}}\][ \t])?"
    rf"(?:From[ \t]{{1,4}})?[<@+~&%]{{0,3}}{_SPEAKER}[ \t]{{0,8}}[:|>][ \t]{{1,8}}(?P<text>\S.*)$",
    # Martha (10:12): text
    rf"^{_SPEAKER}[ \t]{{0,4}}[(\[](?P<day>[^()\[\]\n]{{0,20}}){TIME}[)\]][ \t]{{0,4}}:[ \t]{{1,8}}(?P<text>\S.*)$",
    # Martha: text (10:12)
    rf"^{_SPEAKER}:[ \t]{{1,8}}(?P<text>\S.*?)[ \t]{{1,8}}[(\[]{TIME}[)\]]$",
    # Martha, at 10:12, above the text
    rf"^[*_]{{0,2}}{_SPEAKER}[*_]{{0,2}}(?:[ \t]{{0,8}}\n|[ \t]{{0,8}}[-–—·•|,][ \t]{{1,8}}|[ \t]{{1,20}})"
    rf"(?P<day>(?:[A-Z][^\n:]{{0,20}} )?){TIME}[ \t]{{0,8}}\n\n?(?P<text>[^\s].*)$",
)
_MESSAGES = tuple(re.compile(form, re.MULTILINE) for form in _FORMS)
_HAS_TIME = re.compile(r"\d:\d\d")


def label_messages(text: str) -> str:
    """Rewrites each message of a chat log as a line "speaker: text", without its time.

    If the text ends with the log, and no speaker's name shows who the user is, the log was probably sent to have its
    last message answered. Then the speaker of the last message whose author is unknown is replaced by `ASKING`
    ("User"). Returns the text unchanged if it has fewer than `MIN_MESSAGES` messages with a time in one of the known
    formats.
    """
    if "\n" not in text or not _HAS_TIME.search(text):
        return text
    for form in _MESSAGES:
        messages = list(form.finditer(text))
        if len(messages) >= MIN_MESSAGES:
            return _labelled(text, messages)
    return text


def _labelled(text: str, messages: Sequence[re.Match[str]]) -> str:
    authors = [author_of(message["speaker"].strip()) for message in messages]
    asked = max((number for number, author in enumerate(authors) if author is Author.UNKNOWN), default=None)
    if Author.USER in authors or len(text[messages[-1].end() :].strip()) > MAX_CHARACTERS_AFTER:
        asked = None
    lines, at = [], 0
    for number, message in enumerate(messages):
        speaker = ASKING if number == asked else message["speaker"].strip()
        lines += [text[at : message.start()], f"{speaker}: {message['text']}"]
        at = message.end()
    return "".join([*lines, text[at:]])
