"""Hypothesis strategies for engine answers: choices, tool calls, log-probabilities, usage, and how the bytes are
split."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from tests.gateway.doubles.answers import AnswerChoice
from tests.gateway.doubles.engine import chunk
from tests.gateway.doubles.raw_engine import HEAD, LAST, event, in_chunks


@dataclass(frozen=True)
class Script:
    """An engine's answer, and the positions at which its bytes are split."""

    events: Sequence[dict[str, Any]]
    choices: Sequence[AnswerChoice]
    usage: tuple[int, int, int] | None
    cuts: Sequence[int]

    @property
    def pieces(self) -> list[bytes]:
        whole = HEAD + in_chunks([*map(event, self.events), b"data: [DONE]\n\n"]) + LAST
        at = [0, *sorted({cut % len(whole) for cut in self.cuts} - {0}), len(whole)]
        return [whole[start:end] for start, end in pairwise(at)]


TEXT = st.text(max_size=12) | st.sampled_from(
    ["Zugführer", "日本語", "🚂🚃", 'quote " \\ \n', "\u2028\x85", "data: [DONE]\n\n"]
)
FINISHES = st.sampled_from(["stop", "length", "tool_calls", "content_filter"])
TOKENS = st.integers(0, 2**31 - 1)


@st.composite
def usages(draw: st.DrawFn) -> tuple[int, int, int]:
    prompt = draw(TOKENS)
    return prompt, draw(TOKENS), draw(st.integers(0, prompt))


@st.composite
def tokens(draw: st.DrawFn) -> dict[str, Any]:
    """Generates the log-probabilities of the tokens of a text."""
    logprob = draw(st.floats(-20, 0))
    return {"token": draw(TEXT), "logprob": logprob, "bytes": None, "top_logprobs": []}


@st.composite
def spoken(draw: st.DrawFn, index: int) -> tuple[list[dict[str, Any]], AnswerChoice]:
    """Generates the events of a choice with text, with or without log-probabilities and reasoning, and the choice that
    a client should get.
    """
    pieces, counted = draw(st.lists(TEXT, max_size=5)), draw(st.booleans())
    reasons = draw(st.lists(TEXT.filter(bool), max_size=2))
    of_pieces = [draw(tokens()) for _ in pieces] if counted else []
    finish = draw(FINISHES)
    events = [chunk(reasoning=reason, index=index) for reason in reasons]
    for number, piece in enumerate(pieces):
        beside: dict[str, Any] = {"logprobs": {"content": [of_pieces[number]]}} if counted else {}
        events.append(chunk(piece, index=index, **beside))
    more = {"reasoning": "".join(reasons)} if reasons else {}
    return [*events, chunk("", index=index, finish=finish)], AnswerChoice(
        index, "".join(pieces), finish, (), tuple(of_pieces), more
    )


@st.composite
def called(draw: st.DrawFn, index: int) -> tuple[list[dict[str, Any]], AnswerChoice]:
    """Generates the events of a choice with tool calls, whose arguments are sent in pieces, and the choice that a
    client should get.
    """
    calls, events = [], []
    for number in range(draw(st.integers(1, 3))):
        name, arguments = draw(TEXT), draw(st.lists(TEXT, max_size=3))
        calls.append((f"call-{number}", name, "".join(arguments)))
        first = {
            "index": number,
            "id": f"call-{number}",
            "type": "function",
            "function": {"name": name, "arguments": ""},
        }
        later = [{"index": number, "function": {"arguments": part}} for part in arguments]
        events += [chunk(tool_calls=[piece], index=index) for piece in (first, *later)]
    return [*events, chunk("", index=index, finish="tool_calls")], AnswerChoice(index, "", "tool_calls", tuple(calls))


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    count = draw(st.integers(1, 3))
    of_choices = [draw(spoken(index) | called(index)) for index in range(count)]
    events = [chunk("", role="assistant", index=index) for index in range(count)]
    waiting = [list(entry) for entry, _ in of_choices]
    while any(waiting):  # an engine interleaves the events of its choices
        turn = draw(st.sampled_from([number for number, entry in enumerate(waiting) if entry]))
        events.append(waiting[turn].pop(0))
    usage = draw(st.none() | usages())
    if usage:
        counted = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
        last = {"usage": {**counted, "prompt_tokens_details": {"cached_tokens": usage[2]}}}
        if draw(st.booleans()):  # some engines report usage in every event
            events = [{**entry, "usage": {**counted, "completion_tokens": n}} for n, entry in enumerate(events)]
        if draw(st.booleans()):  # some engines report usage in the last event, vLLM in an extra one
            events[-1] = {**events[-1], **last}
        else:
            events.append({"choices": [], **last})
    return Script(
        events, [choice for _, choice in of_choices], usage, draw(st.lists(st.integers(0, 10**6), max_size=12))
    )
