"""Writes the messages of a chat log with times, in the formats of many programs, as lines of one form."""

import re

MIN_MESSAGES = 2
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

    Returns the text unchanged if it has fewer than `MIN_MESSAGES` messages with a time in one of the known formats.
    """
    if "\n" not in text or not _HAS_TIME.search(text):
        return text
    for messages in _MESSAGES:
        labelled, count = messages.subn(lambda found: f"{found['speaker'].strip()}: {found['text']}", text)
        if count >= MIN_MESSAGES:
            return labelled
    return text
