"""What is alike on the express lane, whichever door the request came through: from its departure to its end."""

import asyncio
from collections.abc import Callable

from pointsman_servicekit.errors import PointsmanError
from pointsman_servicekit.logs import request_id

from pointsman_gateway.backends.express import Failed, Sent
from pointsman_gateway.begun import AtOnce, Begun, first_step
from pointsman_gateway.domain import Chunks, Finished, Receipt, Started, UndecidedReceipt
from pointsman_gateway.domain.outcome import CANCELLED, INTERNAL, OK
from pointsman_gateway.doors.answering import told
from pointsman_gateway.metering.attempts import PathAttempt
from pointsman_gateway.pipeline import Pipeline

Came = Receipt | UndecidedReceipt
Writing = Callable[[Begun, str, PointsmanError | None], Came]


class Ride:
    """One request on the lane, from its sending to an engine to the end of its answer. Implements a `Listener`.

    Doors say how the answer is written: of `_foreseen`, `_opened`, `_piece`, and at last one of `_arrived`, `_failed`,
    `_left`.
    """

    def __init__(self, pipeline: Pipeline, begun: Begun, name: str, as_a_whole: bool) -> None:
        """`name` is the one by which the request is known; its answer is sent `as_a_whole`, or as it comes."""
        self.as_a_whole = as_a_whole
        self._pipeline = pipeline
        self._begun = begun
        self._name = name
        self._tried: PathAttempt
        self._ready: Started
        self._sent: Sent | None = None
        self._started: Started | None = None
        self._finish_reason = ""
        self._heard = False
        """Whether a token has been handed on."""
        self._over = False

    def departs(self) -> bool:
        """Sends it to an engine; False where that takes more than is done here, or is told there what is wrong."""
        try:
            if not self._departs():
                return False
            self._make_ready()
            return True
        except Exception as error:
            if self._sent is not None:
                self._stop()
            self._begun.error = error
            return False

    # -- what the engine does

    def came(self, chunks: Chunks, last: bool) -> None:
        """A part of the answer; `last`: its end follows at once."""
        try:
            self._take(chunks, last)
        except Exception as error:
            self._crash(error)

    def ended(self) -> None:
        """All of the answer has come."""
        if self._over:
            return
        try:
            self._finish()
        except Exception as error:
            self._crash(error)

    def freed(self) -> None:
        """Nothing is held for it any more, here or at the engine: the client may ask the next thing."""

    def broke_off(self, error: PointsmanError) -> None:
        """After its first part, so that nobody else can be asked any more."""
        if not self._over:
            self._arrive()
            self._settle(error.code, error)
            self._failed(error)

    def not_begun(self, failed: Failed | None) -> None:
        """Nothing has been sent yet: the line goes on from here."""
        self._arrive()
        self._begun.failed = failed
        self._left()

    # -- what the client does

    def gone(self) -> None:
        """It has hung up."""
        if not self._over:
            self._stop()
            self._settle(CANCELLED)

    # -- how it is written

    def _foreseen(self, started: Started) -> None:
        """So the answer is to begin, if it does."""

    def _opened(self, started: Started) -> None:
        """The answer begins."""

    def _piece(self, chunks: Chunks, last: bool) -> None:
        """A part of it, never empty; `last`: its end follows at once."""
        raise NotImplementedError

    def _arrived(self, started: Started, finished: Finished) -> None:
        """It is whole, and has its receipt."""
        raise NotImplementedError

    def _failed(self, error: PointsmanError) -> None:
        """It ends here, with its receipt in the error."""
        raise NotImplementedError

    def _left(self) -> None:
        """The lane is left before anything was written."""
        raise NotImplementedError

    def _crashed(self, error: PointsmanError) -> None:
        """At its very end: its receipt is written, or is not to be had; or what was to be written last could not be."""
        raise NotImplementedError

    # -- what becomes of it

    def _departs(self) -> bool:
        begun = self._begun
        decision, line = begun.decision, begun.line
        if begun.error is not None or decision is None or not begun.afforded or not line.express.carries(decision):
            return False
        if line.validation.judges(decision):
            return False
        if self._pipeline.journal.wants_answers(begun.request, decision):
            return False
        tried = begun.meter.tries(decision.path)
        built = first_step(line.prompts.build(begun.request, decision))
        assert isinstance(built, AtOnce)  # of a path that the express carries
        tried.prompted(built.result)
        begun.asked = built.result, tried
        self._tried = tried
        self._sent = line.express.ask(begun.request, decision, built.result, self)
        return self._sent is not None

    def _make_ready(self) -> None:
        """What is known of the answer before it comes: while the engine reads, nobody waits for us."""
        begun, sent = self._begun, self._sent
        assert sent is not None
        assert begun.decision is not None
        assert begun.hold is not None
        self._ready = Started(begun.decision, sent.model, begun.meter.overhead, "", begun.hold.headers)
        self._foreseen(self._ready)

    def _take(self, chunks: Chunks, last: bool) -> None:
        meter = self._begun.meter
        usage = chunks[-1].usage
        if usage is not None:
            meter.used(usage)
            chunks = chunks[:-1]
        if not chunks:
            return
        if self._started is None:
            self._start()
        self._tried.came(chunks)
        self._heard = self._heard or meter.handed_on(chunks)
        for chunk in chunks:
            if chunk.finish_reason:
                self._finish_reason = chunk.finish_reason
        self._piece(chunks, last)

    def _start(self) -> Started:
        self._started = started = self._ready
        self._tried.opened(started.model)
        self._opened(started)
        return started

    def _finish(self) -> None:
        started = self._started or self._start()  # an engine may have counted, and said nothing
        self._arrive()
        try:
            receipt = self._under_its_name(self._pipeline.write, OK)
            assert isinstance(receipt, Receipt)  # it was decided
            self._arrived(started, Finished(self._finish_reason, receipt))
        finally:
            self._pipeline.settle(self._begun)

    def _crash(self, error: Exception) -> None:
        """What nobody foresaw."""
        token = request_id.set(self._name)
        try:
            said = told(error)
        finally:
            request_id.reset(token)
        if self._over:
            self._crashed(said)
            return
        self._stop()
        self._settle(INTERNAL)
        self._failed(said)

    def _settle(self, outcome: str, failure: PointsmanError | None = None) -> None:
        self._under_its_name(self._pipeline.end, outcome, failure)

    def _under_its_name(self, writes: Writing, outcome: str, failure: PointsmanError | None = None) -> Came:
        """The request's, which its receipt is given."""
        token = request_id.set(self._name)
        try:
            return writes(self._begun, outcome, failure)
        finally:
            request_id.reset(token)

    def _stop(self) -> None:
        """Nobody wants the rest."""
        sent = self._sent
        self._arrive()
        if sent is not None:
            sent.close(asyncio.CancelledError())

    def _arrive(self) -> None:
        """Nothing more is heard of the engine. They let go of each other, or the collector would have to find them."""
        self._over = True
        self._sent = None
