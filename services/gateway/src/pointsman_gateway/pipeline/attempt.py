"""The answer of one path on its way to the client: it is metered, collected for validators, and buffered if necessary.

Chunks pass through these sinks, of which those in brackets are only there if they are needed:
source -> [ValidatingSink] -> Attempt -> [BufferingSink] -> RequestRun -> AnswerSink
"""

from pointsman_servicekit.eager import Signal
from pointsman_servicekit.errors import take_error

from pointsman_gateway.domain import Chunks, CompletedAnswer, Decision
from pointsman_gateway.metering.attempts import PathAttempt
from pointsman_gateway.metering.meter import Meter
from pointsman_gateway.ports import AnswerStream, ChunkSink
from pointsman_gateway.validation.stage import AnswerChecks, Transcript, Verdict, refusal


class ValidatingSink:
    """Collects the text of an answer for the validators and the request log, and passes the chunks on to another sink.

    What was requested from the engine only for the validators is removed from the chunks. Implements `ChunkSink`.
    """

    __slots__ = ("_checks", "_sink", "transcript")

    def __init__(self, checks: AnswerChecks | None, sink: ChunkSink) -> None:
        """Takes the sink to pass the answer on to, and the `checks` of the answer; None if only the request log reads
        it.
        """
        self.transcript = Transcript()
        self._checks = checks
        self._sink = sink

    def chunks(self, chunks: Chunks, last: bool) -> None:
        for chunk in chunks:
            if chunk.usage is None:
                self.transcript.add(chunk)
        checks = self._checks
        if checks is not None:
            chunks = tuple([stripped for chunk in chunks if (stripped := checks.client_chunk(chunk)) is not None])
        if chunks:
            self._sink.chunks(chunks, last)

    def ended(self, error: Exception | None) -> None:
        self._sink.ended(error)


class BufferingSink:
    """Buffers an answer's chunks until `release` gives the sink to send all chunks to; implements `ChunkSink`."""

    def __init__(self) -> None:
        self.arrived = Signal()
        """Set at the answer's end, or earlier if the answer is too long to be validated (`Transcript.too_long`)."""
        self.has_ended = False
        self.error: Exception | None = None
        self.transcript: Transcript | None = None
        self._held: list[Chunks] = []
        self._sink: ChunkSink | None = None

    def chunks(self, chunks: Chunks, last: bool) -> None:
        if self._sink is not None:
            self._sink.chunks(chunks, last)
            return
        self._held.append(chunks)
        if self.transcript is not None and self.transcript.too_long:
            self.arrived.set()

    def ended(self, error: Exception | None) -> None:
        self.has_ended, self.error = True, error
        if self._sink is not None:
            self._sink.ended(error)
        else:
            self.arrived.set()

    def release(self, sink: ChunkSink) -> None:
        held, self._held = self._held, []
        self._sink = sink
        for chunks in held:
            sink.chunks(chunks, False)
        if self.has_ended:
            sink.ended(self.error)


class Attempt:
    """One path's answer to a request, from its first chunk on; another may follow if it breaks off or is rejected.

    It counts the chunks and the usage, and passes the chunks on to a sink. Implements `ChunkSink` for the engine's
    answer.
    """

    __slots__ = (
        "_buffer",
        "_checks",
        "_meter",
        "_path_attempt",
        "_reads",
        "_sink",
        "_transcript",
        "answer",
        "decision",
        "is_complete",
        "verdicts",
    )  # fmt: skip

    def __init__(
        self,
        decision: Decision,
        answer: AnswerStream,
        meter: Meter,
        path_attempt: PathAttempt,
        checks: AnswerChecks | None,
        reads: bool,
    ) -> None:
        """Takes the answer of the decision's path.

        `checks` are the checks by validators; None without validators. `reads` says whether the request log needs the
        text of the answer, which is then collected.
        """
        self.decision = decision
        self.answer = answer
        self.verdicts: tuple[Verdict, ...] = ()
        """The validators' verdicts; empty until the answer is complete."""
        self.is_complete = False
        self._meter = meter
        self._path_attempt = path_attempt
        self._checks = checks
        self._reads = reads or checks is not None
        self._transcript: Transcript | None = None
        """Stored without the sink that fills it: the sink refers to this object, and a reference cycle would stay in
        memory until the next garbage collection."""
        self._buffer: BufferingSink | None = None
        self._sink: ChunkSink | None = None

    # -- called by the source

    def chunks(self, chunks: Chunks, last: bool) -> None:
        usage = chunks[-1].usage
        if usage is not None:  # it comes last, in a chunk of its own
            self._meter.set_usage(usage)
            chunks = chunks[:-1]
        if chunks and self._sink is not None:
            self._path_attempt.count_chunks(chunks)
            self._sink.chunks(chunks, last)

    def ended(self, error: Exception | None) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.ended(error)

    # -- called by the run

    async def hold(self) -> None:
        """Waits until the whole answer is buffered, and runs the validators on it; `refusal` then has the result.

        An answer that is too long to be validated is buffered up to that length. Raises the error with which the answer
        fails.
        """
        buffer = self._buffer = BufferingSink()
        self._attach(buffer)
        buffer.transcript = self._transcript
        await buffer.arrived
        if buffer.error is not None:
            raise take_error(buffer)
        if buffer.has_ended:
            self.complete()
        self._meter.record_buffering()

    def pass_on(self, sink: ChunkSink) -> None:
        """Sends the answer to `sink`: first what is buffered, then each chunk as it arrives."""
        if self._buffer is not None:
            self._buffer.release(sink)
        else:
            self._attach(sink)

    def complete(self) -> None:
        """Runs the validators on the complete answer. If none rejects it, calls `answer.accepted` (to store it in the
        cache).

        Later calls do nothing.
        """
        if self.is_complete:
            return
        self.is_complete = True
        if self._checks is not None and self._transcript is not None:
            self.verdicts = self._checks.verdicts(self._transcript)
            for verdict in self.verdicts:
                self._meter.record_verdict(self.decision, verdict.validator, verdict.ruling)
            if refusal(self.verdicts) is not None:
                return
        if self.answer.accepted is not None:
            self.answer.accepted()

    @property
    def refusal(self) -> Verdict | None:
        """Returns the verdict of the first validator that rejects a buffered answer; None if none does, or without a
        buffer.

        An answer that was not buffered has been sent already, so its rejection has no consequence.
        """
        return refusal(self.verdicts) if self._buffer is not None else None

    @property
    def answered(self) -> CompletedAnswer | None:
        """Returns the answer's text and verdicts for the request log; must be called only if the text was collected.

        Returns None unless the answer has exactly one choice, with text and without tool calls, and was short enough to
        be collected.
        """
        transcript = self._transcript
        assert transcript is not None  # called only if the answer is read
        choices = transcript.choices()
        if transcript.too_long or len(choices) != 1 or choices[0].calls_tools or not choices[0].text.strip():
            return None
        verdicts = tuple((v.validator, str(v.ruling), v.reason) for v in self.verdicts)
        return CompletedAnswer(self.decision.path.name, choices[0].text, verdicts)

    def _attach(self, sink: ChunkSink) -> None:
        self._sink = sink
        source: ChunkSink = self
        if self._reads:
            source = validating = ValidatingSink(self._checks, self)
            self._transcript = validating.transcript
        self.answer.source.attach(source)
