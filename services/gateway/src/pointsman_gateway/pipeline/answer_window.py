"""Holds the newest part of a streamed answer until guardrails (checks of texts) have checked it together with its
context.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pointsman_gateway.domain import Chunk
from pointsman_gateway.extensions import GuardedText
from pointsman_gateway.pipeline.guardrails import Span, map_texts, redact

MAX_RELEASED_CHUNKS = 256
"""Maximum number of chunks that `release` returns at once. While a slow guardrail checks, tens of thousands of chunks
may be held, and all may be cleared at once.
"""


@dataclass(slots=True, eq=False)
class _Channel:
    """One text of an answer: a choice's content, its reasoning, or the arguments of one of its tool calls.

    Positions count the text's characters from the beginning of the answer.
    """

    text: str = ""
    """The text from position `start` on."""
    start: int = 0
    checked: int = 0
    """The position up to which guardrails have checked the text."""
    cleared: int = 0
    """The position up to which the text may be sent to the client."""
    released: int = 0
    """The position up to which the text was sent to the client."""
    is_final: bool = False
    spans: list[Span] = field(default_factory=list)
    """The parts to redact, all before `cleared`, by positions in the answer's text."""

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    def is_due(self, every: int) -> bool:
        """Returns whether guardrails should check the text now.

        They should if `every` characters of it are unchecked, or if it is complete and may not all be sent yet.
        """
        return self.end - self.checked >= every or (self.is_final and self.cleared < self.end)

    def clear(self, end: int, is_final: bool, overlap: int, spans: Sequence[Span]) -> None:
        """Records that the text was checked up to position `end`, and clears what may be sent to the client.

        All of it is cleared if the text is complete (`is_final`), otherwise all but the last `overlap` characters,
        since a finding may go on in the text that follows. `spans` are the findings, to redact; one that extends into
        the last `overlap` characters is held back for up to `overlap` characters more.
        """
        limit = end if is_final else max(self.cleared, end - overlap)
        if not is_final:
            for first, last, _ in sorted(spans, reverse=True):
                if first < limit < last:  # held back, since it may go on
                    limit = max(self.cleared, min(limit, first), end - 2 * overlap)
        found = [(max(f, self.cleared), min(last, limit), kind) for f, last, kind in spans if last > self.cleared]
        self.spans = [s for s in self.spans if s[1] > self.released] + [s for s in found if s[0] < s[1]]
        self.checked, self.cleared = end, limit
        kept = min(max(self.start, limit - overlap), end)
        self.text, self.start = self.text[kept - self.start :], kept


@dataclass(slots=True)
class _HeldChunk:
    chunk: Chunk
    pieces: list[tuple[_Channel, int, int]]
    """For each text in the chunk, its channel, its start and its end."""

    @property
    def is_cleared(self) -> bool:
        return all(end <= channel.cleared for channel, _, end in self.pieces)

    def released(self) -> Chunk:
        """Returns the chunk to send, with the guardrails' findings in it redacted, and records that its texts were
        sent.

        A redacted chunk has no log-probabilities and no bytes of the engine, which hold the text too.
        """
        for channel, _, end in self.pieces:
            channel.released = end
        if not any(first < end and last > start for c, start, end in self.pieces for first, last, _ in c.spans):
            return self.chunk
        pieces = iter(self.pieces)

        def rewrite(at: tuple[Any, ...], text: str) -> str:
            channel, start, _ = next(pieces)
            return redact(text, channel.spans, start)

        content = map_texts(self.chunk.content, rewrite)
        delta = map_texts(self.chunk.extra.get("delta", {}), rewrite)
        # Log-probabilities hold the text too.
        return msgspec.structs.replace(self.chunk, content=content, extra={"delta": delta} if delta else {}, raw=b"")


class AnswerWindow:
    """Holds the chunks of a streamed answer until guardrails have checked their texts, together with `overlap`
    characters before and after each text.

    When `is_due` is True, have guardrails check what `texts` returns, and pass their findings to `clear`; `release`
    then returns the chunks that may be sent to the client.
    """

    def __init__(self, overlap: int, every: int) -> None:
        """Takes the number of characters of context before and after a text, and the number of new characters after
        which a check is due.
        """
        self._overlap = overlap
        self._every = every
        self._held: deque[_HeldChunk] = deque()
        self._channels: dict[tuple[Any, ...], _Channel] = {}
        self._asked: list[tuple[_Channel, int, int, bool]] = []
        """The texts in the current check: channel, start, end, and whether the text is complete."""

    @property
    def is_empty(self) -> bool:
        return not self._held

    @property
    def characters(self) -> int:
        """Returns the number of characters that wait to be checked or sent."""
        return sum([channel.end - channel.released for channel in self._channels.values()])

    def add(self, chunk: Chunk) -> None:
        pieces: list[tuple[_Channel, int, int]] = []

        def collect(at: tuple[Any, ...], text: str) -> str:
            channel = self._channels.setdefault((chunk.index, *at), _Channel())
            pieces.append((channel, channel.end, channel.end + len(text)))
            channel.text += text
            return text

        map_texts(chunk.content, collect)
        if chunk.extra:
            map_texts(chunk.extra.get("delta", {}), collect, ("delta",))
        self._held.append(_HeldChunk(chunk, pieces))
        if chunk.finish_reason:
            self.finish(chunk.index)

    def finish(self, index: int | None = None) -> None:
        """Records that the texts of the choice with this index will not grow any more; those of every choice if
        `index` is None.
        """
        for key, channel in self._channels.items():
            if index is None or key[0] == index:
                channel.is_final = True

    @property
    def is_due(self) -> bool:
        """Returns whether guardrails should check one of the answer's texts now.

        They should if a text has enough new characters, or if it is complete and may not all be sent yet.
        """
        return any(channel.is_due(self._every) for channel in self._channels.values())

    def texts(self) -> tuple[list[GuardedText], list[int]]:
        """Returns the texts that guardrails should check now, and for each text the number of characters at its
        beginning that were checked and cleared before.

        Those characters are only context for the new ones: ignore findings that end within them.
        """
        changed = [channel for channel in self._channels.values() if channel.is_due(1)]
        self._asked = [(channel, channel.start, channel.end, channel.is_final) for channel in changed]
        return [GuardedText("assistant", c.text) for c in changed], [c.cleared - c.start for c in changed]

    def clear(self, spans: Sequence[Sequence[Span]]) -> None:
        """Takes the findings of the guardrails: for each text that `texts` returned last, the spans (start, end, kind)
        to redact in it.
        """
        for (channel, start, end, is_final), found in zip(self._asked, spans, strict=True):
            moved = [(start + first, start + last, kind) for first, last, kind in found]
            channel.clear(end, is_final, self._overlap, moved)

    def release(self) -> list[Chunk]:
        """Removes and returns the chunks that may be sent to the client now: at most `MAX_RELEASED_CHUNKS`, in order
        and with findings redacted.
        """
        released: list[Chunk] = []
        while self._held and len(released) < MAX_RELEASED_CHUNKS and self._held[0].is_cleared:
            released.append(self._held.popleft().released())
        return released
