"""Answers a completion request with a list of prompts as one request for each prompt, each with its own routing
decision, and merges their answers.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import msgspec
from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.domain import Chunks, Finished, Receipt, Request, Started, Usage
from pointsman_gateway.domain.value import value
from pointsman_gateway.pipeline.pipeline import Pipeline
from pointsman_gateway.pipeline.public_error import to_public_error
from pointsman_gateway.pipeline.run import RequestRun
from pointsman_gateway.ports import AnswerSink

MAX_CONCURRENT_RUNS = 8
"""Maximum number of requests of one batch that are answered at once. The batch's other requests wait without a slot of
`Admission`.
"""


@value
class BatchFinished(Finished):
    """The last event of the merged answer to a batch, with the receipts of all its requests in `parts`.

    `receipt` is the receipt of the first request, with three fields replaced: `usage` and `picodollars` are the sums
    over all requests, and `seconds` has only "total", which is that of the slowest request. `finish_reason` is empty.
    """

    parts: tuple[Receipt, ...] = ()
    """The receipts of all requests, in the order of the requests."""


class RequestBatch:
    """Answers the prompts of one completion request, each as a request of its own, and merges their answers for one
    sink.

    The choices are numbered in the order of the prompts. Every prompt has its own routing decision and receipt, and
    counts separately in the caller's limits. The first error of a request ends the batch, and cancels the other
    requests. Implements `RunControl`.
    """

    def __init__(self, pipeline: Pipeline, requests: Sequence[Request], choices: int, sink: AnswerSink) -> None:
        """Prepares to answer `requests`, one for each prompt, and to send the merged answer to `sink`.

        Each request has `choices` choices: in the merged answer, those of request i begin at index i * `choices`.
        """
        self._pipeline = pipeline
        self._sink = sink
        self._waiting = deque(_Part(self, request, number * choices) for number, request in enumerate(requests))
        self._parts = tuple(self._waiting)
        self._running: dict[_Part, RequestRun] = {}
        self._is_starting = self._is_paused = self._has_started = self._has_failed = False
        self._reason: PointsmanError | None = None
        """Why the whole batch was cancelled; None if it was not, or if the client has disconnected."""

    def start(self) -> None:
        """Starts the batch's first request and, once its answer has begun, the others; at most `MAX_CONCURRENT_RUNS`
        run at once.

        The client gets the routing decision of the first request. Must be called in the HTTP request's context, from
        which the runs take the request's id.
        """
        self._start_waiting()

    # -- called by the server

    def pause(self) -> None:
        self._is_paused = True
        for run in tuple(self._running.values()):
            run.pause()

    def resume(self) -> None:
        self._is_paused = False
        for run in tuple(self._running.values()):
            run.resume()

    def cancel(self, reason: PointsmanError | None = None) -> None:
        self._waiting.clear()
        if self._reason is None:
            self._reason = reason
        for run in tuple(self._running.values()):
            run.cancel(self._reason)

    # -- called by the parts

    def part_started(self, started: Started) -> None:
        if not self._has_started:
            self._has_started = True
            self._sink.started(started)
            self._start_waiting()

    def part_chunks(self, chunks: Chunks) -> None:
        if not self._has_failed:
            self._sink.chunks(chunks, False)

    def part_failed(self, error: PointsmanError) -> None:
        if not self._has_failed:
            self._has_failed = True
            self.cancel()
            self._sink.failed(error)

    def part_closed(self, part: "_Part") -> None:
        del self._running[part]
        self._start_waiting()
        if self._running or self._waiting:
            return
        receipts = tuple(part.receipt for part in self._parts if part.receipt is not None)
        try:
            if len(receipts) == len(self._parts) and not self._has_failed:
                self._sink.finished(_merged(receipts))
        except Exception as bug:
            self._sink.failed(to_public_error(bug))
        finally:
            self._sink.closed()

    def _start_waiting(self) -> None:
        """Starts more requests of the batch, until `MAX_CONCURRENT_RUNS` run, or one before the first answer has begun.

        Does nothing if it is called while it is running.
        """
        if self._is_starting:
            return
        self._is_starting = True
        try:
            while self._waiting and len(self._running) < (MAX_CONCURRENT_RUNS if self._has_started else 1):
                part = self._waiting.popleft()
                self._running[part] = run = self._pipeline.run(part.request, part)
                if self._is_paused:
                    run.pause()
                run.start()
        finally:
            self._is_starting = False


class _Part:
    """One request of a batch, which receives the answer to the request and passes it on to the batch."""

    def __init__(self, batch: RequestBatch, request: Request, first_index: int) -> None:
        self.request = request
        self.receipt: Receipt | None = None
        """The request's receipt; None until the request is answered."""
        self._batch = batch
        self._first_index = first_index

    def started(self, started: Started) -> None:
        self._batch.part_started(started)

    def chunks(self, chunks: Chunks, last: bool) -> None:
        # The engine's bytes hold the engine's index.
        self._batch.part_chunks(
            tuple(msgspec.structs.replace(c, index=self._first_index + c.index, raw=b"") for c in chunks)
        )

    def finished(self, finished: Finished) -> None:
        self.receipt = finished.receipt

    def failed(self, error: PointsmanError) -> None:
        self._batch.part_failed(error)

    def closed(self) -> None:
        self._batch.part_closed(self)


def _merged(receipts: tuple[Receipt, ...]) -> BatchFinished:
    picodollars: dict[str, int] = {}
    for receipt in receipts:
        for component, amount in receipt.picodollars.items():
            picodollars[component] = picodollars.get(component, 0) + amount
    seconds = {"total": max(receipt.seconds["total"] for receipt in receipts)}
    usage = sum([receipt.usage for receipt in receipts], Usage())
    return BatchFinished("", replace(receipts[0], usage=usage, picodollars=picodollars, seconds=seconds), receipts)
