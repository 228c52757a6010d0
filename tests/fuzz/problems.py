"""Decides whether the gateway's reaction to a case is a problem."""

import json
from dataclasses import dataclass
from typing import Any

SHOWN = 400
"""Maximum number of characters of an answer in a report."""

EXPLAINED = (502, 503, 504, 529)
"""HTTP statuses that a failing engine or a deadline explains; 529 is Anthropic's equivalent of 503."""


@dataclass(frozen=True)
class Problem:
    """Something that went wrong with a case. Cases with the same problem have equal signs."""

    sign: str
    detail: str = ""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, and how its connection ended."""

    status: int
    kind: str
    """The answer's content type."""
    body: bytes
    is_complete: bool = True
    is_stream: bool = False

    @property
    def shown(self) -> str:
        return f"{self.status} {self.kind}: {self.body[:SHOWN]!r}"

    def events(self) -> list[Any]:
        """Returns the events of a stream; events that are not valid JSON are returned as text."""
        lines = self.body.decode("utf-8", "replace").split("\n")
        return [_parsed(line.removeprefix("data:").strip()) for line in lines if line.startswith("data:")]

    @property
    def codes(self) -> set[str]:
        """Returns the codes of the errors in the body or in the events of a stream."""
        found = set()
        for event in self.events() if self.is_stream else [_parsed(self.body.decode("utf-8", "replace"))]:
            if isinstance(event, dict):
                holders = [event, event.get("response")]
                errors = [holder.get("error") for holder in holders if isinstance(holder, dict)]
                found |= {str(error.get("code")) for error in errors if isinstance(error, dict)}
        return found


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def problem_of(where: str, answer: Answer, may_fail: bool) -> Problem | None:
    """Returns what is wrong with an answer; None if it is right.

    `where` names the route. `may_fail` says that the engine, or the deadline of the request, explains a 503 or 504.
    """
    if "internal" in answer.codes or answer.status == 500:
        return Problem(f"500 at {where}", answer.shown)
    if answer.status >= 500 and not answer.kind.startswith("application/json"):
        return Problem(f"{answer.status} that is not ours at {where}", answer.shown)
    if answer.status >= 500 and not (may_fail and answer.status in EXPLAINED and "overloaded" not in answer.codes):
        return Problem(f"{answer.status} {sorted(answer.codes)} without a reason at {where}", answer.shown)
    if not answer.is_complete:
        return Problem(f"an answer is cut off at {where}", f"{answer.status}: ...{answer.body[-SHOWN:]!r}")
    if answer.is_stream and answer.status == 200 and not is_ended(answer):
        return Problem(f"a stream ends without a last event at {where}", f"...{answer.body[-SHOWN:]!r}")
    return None


LAST_EVENTS = ("response.completed", "response.incomplete", "response.failed", "message_stop", "error")


def is_ended(answer: Answer) -> bool:
    """Returns whether a stream has the last event of its API."""
    last = (answer.events() or [None])[-1]
    return last == "[DONE]" or (isinstance(last, dict) and ("error" in last or last.get("type") in LAST_EVENTS))
