"""One path's answer on its way to the caller: metered, and read along by the judge."""

from pointsman_gateway.backends.stage import Opened
from pointsman_gateway.domain import Chunks, CompletedAnswer, Decision
from pointsman_gateway.metering.attempts import PathAttempt
from pointsman_gateway.metering.meter import Meter
from pointsman_gateway.validation.stage import Judge, Verdict, refusal
from pointsman_gateway.validation.transcript import Transcript


class Reading:
    """One path's answer as the caller gets it: metered, and read along by the judge. An iterator over chunks.

    A class where a generator would do: it stands in the way of every piece of every answer.
    """

    def __init__(
        self, opened: Opened, judge: Judge, meter: Meter, tried: PathAttempt, decision: Decision, keeps: bool
    ) -> None:
        self.transcript = Transcript()
        self.verdicts: tuple[Verdict, ...] = ()
        """Empty until the answer has come to its end."""
        self.ended = False
        self._reads = keeps or judge.judges
        self._raw = opened.chunks
        self._accepted = opened.accepted
        self._judge = judge
        self._meter = meter
        self._tried = tried
        self._decision = decision

    def __aiter__(self) -> "Reading":
        return self

    async def __anext__(self) -> Chunks:
        while True:
            try:
                chunks = await anext(self._raw)
            except StopAsyncIteration:
                self._end()
                raise
            if chunks[-1].usage is not None:
                chunks = self._used(chunks)
            if self._reads:
                chunks = self._judged(chunks)
            if chunks:
                self._tried.came(chunks)
                return chunks

    async def aclose(self) -> None:
        await self._raw.aclose()  # type: ignore[attr-defined]  # it has one

    @property
    def answered(self) -> CompletedAnswer | None:
        """None where there is more, or less, to it than one whole text."""
        choices = self.transcript.choices()
        if self.transcript.too_long or len(choices) != 1 or choices[0].calls_tools or not choices[0].text.strip():
            return None
        verdicts = tuple((v.validator, str(v.ruling), v.reason) for v in self.verdicts)
        return CompletedAnswer(self._decision.path.name, choices[0].text, verdicts)

    def _end(self) -> None:
        if self.ended:
            return
        self.ended = True
        self.verdicts = self._judge.verdicts(self.transcript)
        for verdict in self.verdicts:
            self._meter.judged(self._decision, verdict.validator, verdict.ruling)
        if refusal(self.verdicts) is None:
            self._accepted()

    def _used(self, chunks: Chunks) -> Chunks:
        """Without the usage, which comes last."""
        usage = chunks[-1].usage
        assert usage is not None
        self._meter.used(usage)
        return chunks[:-1]

    def _judged(self, chunks: Chunks) -> Chunks:
        for chunk in chunks:
            self.transcript.add(chunk)
        return tuple(told for chunk in chunks if (told := self._judge.told(chunk)) is not None)
