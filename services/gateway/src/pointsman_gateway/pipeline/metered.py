"""The steps of every metered request: take a slot, reserve a part of the caller's limits, make the receipt, and settle.

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
"""Makes the receipt of a request, by its outcome ("ok", "cancelled" or an error's code) and the error that the caller
gets, which may be None."""


class MeteredRequest:
    """A context manager for a block that handles one request. At the block's end, also if it raises, the receipt is
    made and logged, and the caller's limits are charged.
    """

    def __init__(self, pipeline: "Pipeline", request: Request, write_receipt: WriteReceipt) -> None:
        self._pipeline = pipeline
        self._request = request
        self._write_receipt = write_receipt
        self._reservation: Reservation | None = None

    def __enter__(self) -> "MeteredRequest":
        return self

    @asynccontextmanager
    async def admitted(self, tokens: int) -> AsyncIterator[Reservation]:
        """Holds a slot during the block, reserves `tokens` of the caller's limits, and yields the reservation.

        Entering raises the errors of `Admission.enter`, `Admission.wait` and `reserve`. The block is interrupted with
        DeadlineExceeded soon after the deadline, and with Unavailable when the gateway stops.
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
    """Reserves one request, one stream and `tokens` of the caller's limits.

    Raises ResourceExhausted, with the limits' headers in `limits`, if a limit is used up, and Unavailable as
    `Tenancy.enter` does.
    """
    try:
        return tenancy.enter_now(request.caller, tokens) or await tenancy.enter(request.caller, tokens)
    except ResourceExhausted as error:
        error.limits = tenancy.headers(request.caller)
        raise


def settle(reservation: Reservation, receipt: Receipt | UndecidedReceipt | None) -> None:
    """Charges the receipt's usage and cost, or all reserved dollars if the cost is unknown, and gives back the rest.
    Without a receipt, because it could not be made, charges nothing.
    """
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
    """Passes a receipt to the request log; does not raise.

    `answers` go with a `Receipt` only, and should be given only if the log wants them (`RequestLog.wants_answers`).
    """
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
