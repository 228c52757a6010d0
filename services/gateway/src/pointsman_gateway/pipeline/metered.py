"""What every metered request does: take a slot, reserve its caller's limits, write its receipt, and settle.

`RequestRun` calls the functions one by one, because it answers its client between the receipt and the settlement.
`MeteredRequest` does the same for requests that just return a value: decisions and embeddings.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from pointsman_servicekit.errors import PointsmanError, ResourceExhausted

from pointsman_gateway.domain import CompletedAnswer, Receipt, Request, UndecidedReceipt, Usage
from pointsman_gateway.domain.outcome import CANCELLED, INTERNAL, OK
from pointsman_gateway.ports import RequestLog, Reservation, Tenancy

if TYPE_CHECKING:
    from pointsman_gateway.pipeline.pipeline import Pipeline

WriteReceipt = Callable[[str, PointsmanError | None], Receipt | UndecidedReceipt]
"""Writes and returns the receipt of a request with this outcome; the error is the one that the caller gets, or None."""


class MeteredRequest:
    """A block that is one request: at its end the receipt is written and logged, and the limits are settled."""

    def __init__(self, pipeline: "Pipeline", request: Request, write_receipt: WriteReceipt) -> None:
        self._pipeline = pipeline
        self._request = request
        self._write_receipt = write_receipt
        self._reservation: Reservation | None = None

    def __enter__(self) -> "MeteredRequest":
        return self

    @asynccontextmanager
    async def admitted(self, tokens: int) -> AsyncIterator[Reservation]:
        """Holds a slot for the block, and reserves `tokens` of the caller's limits.

        Entering raises InvalidArgument, ResourceExhausted or Unavailable; the block raises DeadlineExceeded soon after
        the deadline, or Unavailable when the gateway stops.
        """
        pipeline, request = self._pipeline, self._request
        with pipeline.active_runs.running(request.deadline):
            async with pipeline.admission.admitted(request):
                self._reservation = reservation = await reserve(pipeline.tenancy, request, tokens)
                yield reservation

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        outcome, public_error = _end_of(error)
        receipt = None
        try:
            receipt = self._write_receipt(outcome, public_error)
            if public_error is not None:
                public_error.receipt, public_error.__traceback__ = receipt, None
        finally:
            if self._reservation is not None:
                settle(self._reservation, receipt)
        record(self._pipeline.request_log, self._request, receipt)


async def reserve(tenancy: Tenancy, request: Request, tokens: int) -> Reservation:
    """Reserves one request, one stream and `tokens` of the caller's limits. Raises Unavailable, or ResourceExhausted
    with the headers of the limits.
    """
    try:
        return tenancy.enter_now(request.caller, tokens) or await tenancy.enter(request.caller, tokens)
    except ResourceExhausted as error:
        error.limits = tenancy.headers(request.caller)
        raise


def settle(reservation: Reservation, receipt: Receipt | UndecidedReceipt | None) -> None:
    """Charges the usage and cost of the receipt; nothing if it is None, because it could not be written."""
    if receipt is None:
        reservation.settle(Usage(), 0.0, INTERNAL)
    else:
        reservation.settle(receipt.usage, receipt.cost_usd, receipt.outcome)


def record(
    request_log: RequestLog,
    request: Request,
    receipt: Receipt | UndecidedReceipt,
    answers: tuple[CompletedAnswer, ...] = (),
) -> None:
    """Adds a receipt, with the `answers` for which it asked, to the request log's write-ahead log; does not raise."""
    if isinstance(receipt, Receipt):
        request_log.note(request, receipt.decision, receipt, answers)
    else:
        request_log.note_undecided(receipt)


def _end_of(error: BaseException | None) -> tuple[str, PointsmanError | None]:
    """Returns the outcome for the receipt, and the error that the caller gets: a PointsmanError, else None.

    `error` is what ended the request's `with` block. The outcome is OK, the error's code, INTERNAL or CANCELLED.
    """
    if error is None:
        return OK, None
    if isinstance(error, PointsmanError):
        return error.code, error
    return (INTERNAL if isinstance(error, Exception) else CANCELLED), None
