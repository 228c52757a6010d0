"""Reads one text: whether it is in a language of the examples, and what the classifier says of it.

Of a long text the first and the last sentence are read by themselves: one of them says what is wanted of the rest.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace

from pointsman_gateway.classification.ends import AT_AN_END, ends_of, is_binary, visible
from pointsman_gateway.classification.language import NONE, Languages
from pointsman_gateway.classification.turns import LONG
from pointsman_gateway.domain import UNKNOWN, Labels

_MOST_OF_A_SENTENCE = 240
_LEAST_OF_A_SENTENCE = 30
"""Characters: "Hi there." is read with the sentence beside it."""

_SENTENCE_ENDS = re.compile(r"(?<=[.!?:])\s+|\n+")

MARGIN = 0.5
"""From the first task's probability to the second's, for a reading to be sure."""


class Reader:
    def __init__(self, classify: Callable[[str], Awaitable[Labels]], languages: Languages) -> None:
        self._classify = classify
        self._languages = languages

    async def read(self, text: str) -> Labels:
        """In three classifications at most."""
        if len(text) <= LONG:
            return await self.glance(text)
        foreign = self._foreign(text)
        if foreign:
            return foreign
        ends = [await self._classify(end) for end in _outer_sentences(text)]
        surest = max(ends, key=lambda labels: labels.familiarity)
        if not is_sure(surest):
            return await self._classify(text)
        where = "first" if surest is ends[0] else "last"
        note = f"read by its {where} sentence, of {len(text)} characters"
        return replace(surest, notes=(*surest.notes, note))

    async def glance(self, text: str) -> Labels:
        """In one classification at most."""
        return self._foreign(text) or await self._classify(visible(text) if len(text) <= LONG else text)

    def _foreign(self, text: str) -> Labels | None:
        ends = ends_of(text)
        language = NONE if is_binary(ends.text) else self._languages.foreign(visible(ends.text))
        return unread("language", f"language: {language}", *ends.notes) if language else None


def is_sure(labels: Labels) -> bool:
    return not labels.abstained and labels.margin >= MARGIN


def unread(stage: str, *notes: str) -> Labels:
    """Of no task, without having been classified."""
    return Labels(UNKNOWN, 0.0, (), abstained=True, stage=stage, notes=notes)


def _outer_sentences(text: str) -> tuple[str, str]:
    first = _SENTENCE_ENDS.split(visible(text[:AT_AN_END]).strip())
    last = _SENTENCE_ENDS.split(visible(text[-AT_AN_END:]).strip())
    return _grown(first)[:_MOST_OF_A_SENTENCE], _grown(last[::-1], before=True)[-_MOST_OF_A_SENTENCE:]


def _grown(sentences: list[str], before: bool = False) -> str:
    """The first of them, and as many more as it takes to be a sentence at all."""
    grown = ""
    for sentence in sentences:
        if len(grown) >= _LEAST_OF_A_SENTENCE:
            break
        grown = (f"{sentence} {grown}" if before else f"{grown} {sentence}").strip()
    return grown
