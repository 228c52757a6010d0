"""Which questions may have the answer to one that is alike, and what tells two apart however alike they are."""

from pointsman_gateway.domain import Request, Sampling

LONGEST_QUESTION = 1_000
"""Characters; of longer ones the encoder reads only a part."""

ROUND = "\"'`“”‘’.,:;!?()[]{}<>*_-–—"
"""What stands around a word."""

NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve hundred thousand first second third half"
TURNS = "not no never none nobody nothing neither nor without except unless only cannot before after"
TELLING = frozenset(f"{NUMBERS} {TURNS}".split())
"""English words that turn an answer round, and hardly a vector."""

RESULTS = frozenset({"tool", "function"})
"""Roles of what a tool has said."""
CALLS = frozenset({"tool_calls", "function_call"})


def comparable(request: Request, sampling: Sampling) -> bool:
    """Whether the request may have the answer to another question.

    Not where it may call tools: another's call would be made, with another's arguments. Not where several choices are
    asked for: the one that asks wants them to differ.
    """
    extra = sampling.extra
    return (
        request.messages[-1].role == "user"
        and 0 < len(request.query) <= LONGEST_QUESTION
        and not (extra.get("tools") or extra.get("functions"))
        and not any(m.role in RESULTS or not CALLS.isdisjoint(m.extra) for m in request.messages)
        and (extra.get("n") or 1) == 1
    )


def told_apart_by(question: str) -> list[str]:
    """In their order, the words with figures in them, and those that turn an answer round.

    "Refund booking AB12" and "Refund booking CD34" have almost the same vector, and never the same answer.
    """
    words = (word.strip(ROUND).casefold() for word in question.replace("’", "'").split())
    return [word for word in words if word in TELLING or word.endswith("n't") or any(map(str.isnumeric, word))]
