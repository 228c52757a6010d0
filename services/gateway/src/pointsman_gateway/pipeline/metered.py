"""The steps of every metered request: take a slot, reserve a part of the caller's limits, log the receipt, and charge
the limits with what the request used.

`RequestRun` calls the steps one by one, because it answers its client before the limits are charged. `MeteredBlock`
calls them for requests that just return a value: decisions and embeddings.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from pointsman_servicekit.errors import PointsmanError, ResourceExhausted

from pointsman_gateway.domain import CompletedAnswer, Receipt, Request, UndecidedReceipt, Usage
from pointsman_gateway.domain.outcome import CANCELLED, INTERNAL, OK
from pointsman_gateway.ports import Reservation

if TYPE_CHECKING:
    from pointsman_gateway.pipeline.pipeline import Pipeline

WriteReceipt = Callable[[str, PointsmanError | None], Receipt | UndecidedReceipt]
"""A function that makes the receipt of a request from (outcome, error). The outcome is "ok", "cancelled" or an error's
code; the error is the one that the caller gets, or None.
"""


class MeteredRequest:
    """One request with what it holds until its end: a slot of `Admission`, and a reservation of its caller's limits."""

    __slots__ = ("_has_slot", "_pipeline", "_request", "_reservation")

    def __init__(self, pipeline: "Pipeline", request: Request) -> None:
        self._pipeline = pipeline
        self._request = request
        self._has_slot = False
        self._reservation: Reservation | None = None

    @property
    def reservation(self) -> Reservation:
        """Returns the part of the caller's limits that `admit` has reserved; `admit` must have been called."""
        assert self._reservation is not None  # `admit` comes first
        return self._reservation

    async def admit(self, estimate_tokens: Callable[[Request], int]) -> Reservation:
        """Takes a slot, waiting for it if necessary, and reserves one request, one stream and the estimated tokens of
        the caller's limits. Returns the reservation. `estimate_tokens` is called after `Admission.enter` has checked
        the request.

        Raises the errors of `Admission.enter`, `Admission.wait` and `Tenancy.enter`. If a limit is used up, that is
        ResourceExhausted, whose attribute `limits` has the headers with the state of the limits.
        """
        admission, tenancy, request = self._pipeline.admission, self._pipeline.tenancy, self._request
        if not admission.enter(request):
            await admission.wait(request)
        self._has_slot = True
        tokens = estimate_tokens(request)
        try:
            reservation = tenancy.enter_now(request.caller, tokens) or await tenancy.enter(request.caller, tokens)
        except ResourceExhausted as error:
            error.limits = tenancy.headers(request.caller)
            raise
        self._reservation = reservation
        return reservation

    def log(
        self,
        receipt: Receipt | UndecidedReceipt,
        error: PointsmanError | None,
        answers: tuple[CompletedAnswer, ...] = (),
    ) -> None:
        """Passes the receipt to the request log, and stores it in `error`, from which the server takes it; does not
        raise.

        `error` is what the caller gets, None after a success. `answers` are for a `Receipt` only, and only if the log
        stores texts (`RequestLog.wants_answers`).
        """
        if error is not None:
            error.receipt = receipt
            error.__traceback__ = None  # breaks a reference cycle
        if isinstance(receipt, Receipt):
            self._pipeline.request_log.note(self._request, receipt.decision, receipt, answers)
        else:
            self._pipeline.request_log.note_undecided(receipt)

    def release(self, receipt: Receipt | UndecidedReceipt | None) -> None:
        """Gives back the slot, charges the caller's limits with the receipt's usage and cost, and frees what was
        reserved beyond them.

        If the receipt's cost is unknown, all reserved dollars are charged. If the receipt is None, because it could not
        be made, nothing is charged.
        """
        if self._has_slot:
            self._pipeline.admission.leave(self._request)
        if self._reservation is None:
            return
        if receipt is None:
            self._reservation.settle(Usage(), 0.0, INTERNAL)
        else:
            self._reservation.settle(receipt.usage, receipt.cost_usd, receipt.outcome)


class MeteredBlock(MeteredRequest):
    """A context manager for a block that handles one request, such as one for embeddings.

    At the end of the block, also if the block raises an exception, it makes and logs the receipt, and charges the
    caller's limits.
    """

    __slots__ = ("_write_receipt",)

    def __init__(self, pipeline: "Pipeline", request: Request, write_receipt: WriteReceipt) -> None:
        super().__init__(pipeline, request)
        self._write_receipt = write_receipt

    def __enter__(self) -> "MeteredBlock":
        return self

    @asynccontextmanager
    async def admitted(self, estimated_tokens: int) -> AsyncIterator[Reservation]:
        """A context manager: takes a slot and reserves limits for the request, and yields the reservation.

        Raises the errors of `admit`. Its block is interrupted with DeadlineExceeded soon after the request's deadline,
        and with Unavailable when the gateway stops.
        """
        with self._pipeline.active_runs.running(self._request.deadline):
            yield await self.admit(lambda request: estimated_tokens)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        outcome, public_error = _end_of(error)
        receipt = None
        try:
            receipt = self._write_receipt(outcome, public_error)
            self.log(receipt, public_error)
        finally:
            self.release(receipt)


def _end_of(error: BaseException | None) -> tuple[str, PointsmanError | None]:
    """Returns the outcome for the receipt, and the error that the caller gets: a PointsmanError, else None.

    `error` is what ended the request's `with` block. The outcome is OK, the error's code, INTERNAL or CANCELLED.
    """
    if error is None:
        return OK, None
    if isinstance(error, PointsmanError):
        return error.code, error
    return (INTERNAL if isinstance(error, Exception) else CANCELLED), None
