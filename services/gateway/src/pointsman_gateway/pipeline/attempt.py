"""One path's answer on its way to the caller: metered, read along by the validators, and held back if it has to be.

source -> [ValidatingSink] -> Attempt -> [BufferingSink] -> RequestRun -> AnswerSink
"""

from pointsman_servicekit.eager import Signal

from pointsman_gateway.domain import Chunks, CompletedAnswer, Decision
from pointsman_gateway.metering.attempts import PathAttempt
from pointsman_gateway.metering.meter import Meter
from pointsman_gateway.pipeline.ports import ChunkSink, OpenAnswer
from pointsman_gateway.validation.stage import Judge, Transcript, Verdict, refusal


class ValidatingSink:
    """Keeps what the answer says, for the validators and the journal; strips what only the validators asked for."""

    __slots__ = ("_judge", "_sink", "transcript")

    def __init__(self, judge: Judge | None, sink: ChunkSink) -> None:
        """`judge` is None if the answer is read for the journal alone."""
        self.transcript = Transcript()
        self._judge = judge
        self._sink = sink

    def chunks(self, chunks: Chunks, last: bool) -> None:
        for chunk in chunks:
            if chunk.usage is None:
                self.transcript.add(chunk)
        judge = self._judge
        if judge is not None:
            chunks = tuple([stripped for chunk in chunks if (stripped := judge.client_chunk(chunk)) is not None])
        if chunks:
            self._sink.chunks(chunks, last)

    def ended(self, error: Exception | None) -> None:
        self._sink.ended(error)


class BufferingSink:
    """Holds an answer back until it is released."""

    def __init__(self) -> None:
        self.arrived = Signal()
        """Set at the answer's end; the run sets it earlier if the answer is too long to be validated."""
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
    """One path's answer that has begun. Implements `ChunkSink`: it counts what arrives, and passes it on."""

    __slots__ = (
        "_buffer", "_judge", "_meter", "_reads", "_sink", "_tried", "_validating", "answer", "decision", "is_complete",
        "verdicts",
    )  # fmt: skip

    def __init__(
        self, decision: Decision, answer: OpenAnswer, meter: Meter, tried: PathAttempt, judge: Judge | None, reads: bool
    ) -> None:
        """`reads`: whether the request log wants the answer's text."""
        self.decision = decision
        self.answer = answer
        self.verdicts: tuple[Verdict, ...] = ()
        """Empty until the answer is complete."""
        self.is_complete = False
        self._meter = meter
        self._tried = tried
        self._judge = judge
        self._reads = reads or judge is not None
        self._validating: ValidatingSink | None = None
        self._buffer: BufferingSink | None = None
        self._sink: ChunkSink | None = None

    # -- what the source does

    def chunks(self, chunks: Chunks, last: bool) -> None:
        usage = chunks[-1].usage
        if usage is not None:  # it comes last, in a chunk of its own
            self._meter.set_usage(usage)
            chunks = chunks[:-1]
        if chunks and self._sink is not None:
            self._tried.count_chunks(chunks)
            self._sink.chunks(chunks, last)

    def ended(self, error: Exception | None) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.ended(error)

    # -- what the run does

    async def hold(self) -> None:
        """Receives the answer without passing it on, until it is complete or too long to be validated.

        Raises what the engine failed with.
        """
        buffer = self._buffer = BufferingSink()
        self._attach(buffer)
        if self._validating is not None:
            buffer.transcript = self._validating.transcript
        await buffer.arrived
        if buffer.error is not None:
            error, buffer.error = buffer.error, None
            try:
                raise error
            finally:
                del error  # its traceback has this frame, which would hold it
        if buffer.has_ended:
            self.complete()
        self._meter.record_buffering()

    def pass_on(self, sink: ChunkSink) -> None:
        """From now on the answer goes to `sink`, with what was held back first."""
        if self._buffer is not None:
            self._buffer.release(sink)
        else:
            self._attach(sink)

    def complete(self) -> None:
        """The answer has come to its end: its validators rule."""
        if self.is_complete:
            return
        self.is_complete = True
        if self._judge is not None and self._validating is not None:
            self.verdicts = self._judge.verdicts(self._validating.transcript)
            for verdict in self.verdicts:
                self._meter.record_verdict(self.decision, verdict.validator, verdict.ruling)
            if refusal(self.verdicts) is not None:
                return
        self.answer.accepted()

    @property
    def refusal(self) -> Verdict | None:
        """Why the answer is not to be sent, if it was held back and a validator has refused it."""
        return refusal(self.verdicts) if self._buffer is not None else None

    @property
    def answered(self) -> CompletedAnswer | None:
        """None if the answer is more, or less, than one whole text."""
        assert self._validating is not None  # only answers that are read are asked for
        transcript = self._validating.transcript
        choices = transcript.choices()
        if transcript.too_long or len(choices) != 1 or choices[0].calls_tools or not choices[0].text.strip():
            return None
        verdicts = tuple((v.validator, str(v.ruling), v.reason) for v in self.verdicts)
        return CompletedAnswer(self.decision.path.name, choices[0].text, verdicts)

    def _attach(self, sink: ChunkSink) -> None:
        self._sink = sink
        source: ChunkSink = self
        if self._reads:
            source = self._validating = ValidatingSink(self._judge, self)
        self.answer.source.attach(source)
