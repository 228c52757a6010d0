"""A gateway without Redis keeps no journal; it counts evidence for itself, and takes no feedback."""

from pointsman_servicekit.errors import FailedPrecondition

from pointsman_gateway.domain import CompletedAnswer, Decision, Feedback, Receipt, Request, UndecidedReceipt
from pointsman_gateway.journal.evidence import EvidenceBoard
from pointsman_gateway.journal.feedback import Stored


class NoJournal:
    """Implements the pipeline's `Journal`."""

    def __init__(self, board: EvidenceBoard) -> None:
        self._board = board

    def wants_answers(self, request: Request, decision: Decision) -> bool:
        """There is nowhere to keep them."""
        return False

    def note(
        self, request: Request, decision: Decision, receipt: Receipt, answers: tuple[CompletedAnswer, ...] = ()
    ) -> None:
        """Forgets it, but for what it says of the path."""
        self._board.answered(receipt)

    def note_undecided(self, receipt: UndecidedReceipt) -> None:
        """Forgets it; it has been counted."""


class NoFeedback:
    """Implements the doors' `FeedbackBox`."""

    async def take(self, feedback: Feedback) -> Stored:
        """Raises FailedPrecondition."""
        raise FailedPrecondition(
            "this gateway keeps no journal, so no decision can be found; "
            "set POINTSMAN_GATEWAY_REDIS_URL (redis://HOST:PORT/0) and start it again",
            code="no_journal",
        )
