"""Search conditions for the console's list of decisions, and how an entry of the request log is compared with them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from pointsman_gateway.console.decisions import DecisionRow
from pointsman_gateway.domain import outcome
from pointsman_gateway.request_log.store import LogEntry


class Ending(StrEnum):
    """A way in which a request can end, as a filter of the console's search. Several of them can apply to one
    request.
    """

    OK = outcome.OK
    FAILED = "failed"
    """The request failed, and neither the caller nor a limit was the cause."""
    CANCELLED = outcome.CANCELLED
    ESCALATED = "escalated"
    """Another path answered the request, because a validator had rejected the first answer."""
    ROUTED = outcome.ROUTED
    """The caller asked only for the decision, not for an answer."""


_HAS_ENDED: Mapping[Ending, Callable[[DecisionRow], bool]] = {
    Ending.OK: lambda row: row.outcome == outcome.OK,
    Ending.FAILED: lambda row: row.failed,
    Ending.CANCELLED: lambda row: row.outcome == outcome.CANCELLED,
    Ending.ESCALATED: lambda row: bool(row.escalated_from),
    Ending.ROUTED: lambda row: not row.is_request,
}


class _Texts(msgspec.Struct, frozen=True):
    """The texts of a log entry in which a search looks."""

    id: str
    model: str = ""
    messages: Sequence[Mapping[str, Any]] | None = None
    answer: str | None = None


_decode = msgspec.json.Decoder(_Texts).decode


@dataclass(frozen=True, slots=True)
class DecisionQuery:
    """A search for decisions: those that fulfil all conditions are listed. An empty field or None is no condition."""

    text: str = ""
    """A text to find in the stored messages and answers, in the decision's id, or in the name of the model or adapter
    version that answered; case does not matter. Empty: no condition."""
    task: str = ""
    path: str = ""
    ending: Ending | None = None

    def matches(self, row: DecisionRow, entry: LogEntry) -> bool:
        """Returns whether a decision fulfils the query's conditions. `row` and `entry` are the same decision.

        `row` has the task, the path and the ending; `entry` has the JSON with the texts to search.
        """
        if (self.task and row.task != self.task) or (self.path and row.path != self.path):
            return False
        if self.ending is not None and not _HAS_ENDED[self.ending](row):
            return False
        return not self.text or self._is_in(_decode(entry.json))

    def _is_in(self, texts: _Texts) -> bool:
        wanted = self.text.casefold()
        messages = (str(message.get("content") or "") for message in texts.messages or ())
        return any(wanted in text.casefold() for text in (texts.id, texts.model, texts.answer or "", *messages))


EVERYTHING = DecisionQuery()
