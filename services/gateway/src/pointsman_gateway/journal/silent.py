"""A gateway without Redis keeps no journal."""

from pointsman_gateway.domain import Decision, Receipt, Request


class NoJournal:
    """Implements the pipeline's `Journal`."""

    def note(self, request: Request, decision: Decision, receipt: Receipt | None) -> None:
        """Forgets it."""
