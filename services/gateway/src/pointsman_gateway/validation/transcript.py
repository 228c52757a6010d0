"""An answer read along while it comes, choice by choice."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from pointsman_gateway.domain import Chunk

LONGEST = 1_000_000
"""Characters of an answer that are kept, and so judged; an answer that is longer is not judged."""
MOST_CHUNKS = 32_768


@dataclass(frozen=True, slots=True)
class Choice:
    """One choice of an answer, whole."""

    text: str
    finish_reason: str = ""
    calls_tools: bool = False
    logprobs: tuple[float, ...] = ()
    """The natural logarithm of each token's probability, as far as the engine has told."""

    @property
    def only_calls_tools(self) -> bool:
        """Whether there is no text that could be judged, and none was due."""
        return self.calls_tools and not self.text.strip()


@dataclass(slots=True)
class _Growing:
    pieces: list[str] = field(default_factory=list)
    finish_reason: str = ""
    calls_tools: bool = False
    logprobs: list[float] = field(default_factory=list)


class Transcript:
    """Takes chunks, up to a bound; beyond it nothing is kept."""

    def __init__(self, longest: int = LONGEST) -> None:
        self._longest = longest
        self._characters = 0
        self._chunks = 0
        self._choices: dict[int, _Growing] = {}

    @property
    def too_long(self) -> bool:
        """The answer is longer than what is kept of it."""
        return self._characters > self._longest or self._chunks > MOST_CHUNKS

    def add(self, chunk: Chunk) -> None:
        self._characters += len(chunk.content)
        self._chunks += 1
        if self.too_long:
            self._choices.clear()
            return
        choice = self._choices.setdefault(chunk.index, _Growing())
        choice.pieces.append(chunk.content)
        choice.finish_reason = chunk.finish_reason or choice.finish_reason
        delta = chunk.extra.get("delta") or {}
        choice.calls_tools |= bool(delta.get("tool_calls") or delta.get("function_call"))
        choice.logprobs.extend(_logprobs(chunk))

    def choices(self) -> list[Choice]:
        """By number; an answer of which nothing came is one empty choice."""
        if not self._choices:
            return [Choice("")]
        return [
            Choice("".join(c.pieces), c.finish_reason, c.calls_tools, tuple(c.logprobs))
            for _, c in sorted(self._choices.items())
        ]


def _logprobs(chunk: Chunk) -> Iterator[float]:
    told = chunk.extra.get("logprobs")
    for token in (told.get("content") or ()) if isinstance(told, dict) else ():
        logprob = token.get("logprob") if isinstance(token, dict) else None
        if isinstance(logprob, int | float):
            yield logprob
