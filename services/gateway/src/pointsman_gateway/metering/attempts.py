"""What each path was given to do for one request, and what that took."""

from collections.abc import Iterable, Mapping, Sequence
from time import perf_counter
from typing import TypeVar

from pointsman_gateway.domain import Chunks, Path, Prompt, Usage
from pointsman_gateway.metering.pricing import Parts, Pricing, tokens_of

NO_PROMPT = Prompt(())

Amount = TypeVar("Amount", int, float)

Work = tuple[Usage, Parts, dict[str, float]]
"""Tokens, picodollars by component, and seconds by phase."""


class PathAttempt:
    """One path's work."""

    # Reading a slot takes a tenth of what reading a default takes that stands on the class.
    __slots__ = (
        "begun",
        "cached",
        "embeddings",
        "ended",
        "failure",
        "first_piece",
        "hedged",
        "held",
        "model",
        "path",
        "pieces",
        "prompt",
        "refused",
        "sent",
        "usage",
        "waited",
    )

    def __init__(self, path: Path, begun: float) -> None:
        self.path = path
        self.begun = begun
        self.prompt = NO_PROMPT
        self.sent: float | None = None
        self.first_piece: float | None = None
        self.pieces = 0
        self.held = 0.0
        self.usage: Usage | None = None
        self.model = ""
        self.cached = ""
        self.hedged = 0
        self.embeddings = 0
        self.waited = 0.0
        """Seconds until its adapter was loaded, or was not."""
        self.failure = ""
        """The code of what kept it from answering."""
        self.refused = False
        """By a validator."""
        self.ended: float | None = None
        """When its work had come to its end, where another path's came after it."""

    def work(self, pricing: Pricing) -> Work:
        """What it came to."""
        usage = self.usage
        if usage is None:
            usage = self._estimate()
        return usage, self._parts(pricing, usage), self._seconds(usage)

    def _estimate(self) -> Usage:
        """Where an answer was cut before the engine's own count came.

        That is the pieces that arrived (a token or more each), and the prompt by its length: it has been read by then.
        """
        return Usage(tokens_of(self.prompt.messages), self.pieces) if self.pieces else Usage()

    def prompted(self, prompt: Prompt) -> None:
        """Its prompt is made, and goes to an engine."""
        self.prompt, self.sent = prompt, perf_counter()

    def opened(self, model: str, cached: str = "", hedged: int = 0, waited: float = 0.0, embeddings: int = 0) -> None:
        """`model` has begun to answer, or what it once answered was found in the cache.

        `hedged` other engines were given the same prompt, and let go of before they began. `waited` seconds passed
        until its adapter was loaded. `embeddings` were made to look for it in the cache.
        """
        self.model = model
        if cached or hedged or waited or embeddings:
            self.cached, self.hedged, self.waited, self.embeddings = cached, hedged, waited, embeddings

    def came(self, chunks: Chunks) -> None:
        """A part of the answer has come. This stands in the way of every piece.

        Each is looked at by itself: how many come at once is a matter of the network, and must not be one of money.
        """
        for chunk in chunks:
            if chunk.content or chunk.extra:
                self.pieces += chunk.event_count
        if self.first_piece is None and self.pieces:
            self.first_piece = perf_counter()

    def overhead(self) -> float:
        """Seconds from beginning to sending, without retrieval."""
        return 0.0 if self.sent is None else self.sent - self.begun - self.prompt.seconds.get("retrieval", 0.0)

    def _seconds(self, usage: Usage) -> dict[str, float]:
        """By phase, up to the first piece; and those for which the answer was held back after it. Until its first piece
        it was in the engine's queue, where the engine tells that, and beyond it."""
        seconds = {**self.prompt.seconds}
        if self.waited:
            seconds["adapter"] = self.waited
        if self.sent is not None and not self.cached:
            waiting = (self.first_piece or self.ended or perf_counter()) - self.sent - self.waited
            waiting = waiting if waiting > 0 else 0.0
            of_engine = usage.seconds
            if of_engine is not None and of_engine.queue is not None:
                queue = seconds["queue"] = of_engine.queue if of_engine.queue < waiting else waiting
                waiting -= queue
            seconds["prefill"] = waiting
        if self.held:
            seconds["held"] = self.held
        return seconds

    def _parts(self, pricing: Pricing, usage: Usage) -> Parts:
        """What it cost; of an adapter that has answered, a share of its training too."""
        if self.cached:
            parts = pricing.hit()
        else:
            parts = pricing.parts(self.path.model, usage)
            if self.hedged:
                # They have read the prompt, and tell nothing of it; so it is priced as for the one that answered.
                parts["hedge"] = (parts["prompt"] + parts["cached"]) * self.hedged
            if self.path.adapter and self.pieces:
                training = pricing.training(self.path.model, self.model)
                if training:
                    parts["training"] = training
        prompt = self.prompt
        if prompt.searches:
            parts["retrieval"] = pricing.searches(prompt.searches)
        embedded = prompt.embeddings + self.embeddings
        if embedded and (embedding := pricing.embeddings(embedded)):
            parts["embedding"] = embedding
        return parts


def sum_attempts(work: Sequence[Work]) -> Work:
    """Of all tries; nothing, of none."""
    usages, parts, seconds = zip(*work, strict=True) if work else ((), (), ())
    return sum(usages, Usage()), _added(parts), _added(seconds)


def _added(of_each: Iterable[Mapping[str, Amount]]) -> dict[str, Amount]:
    """Name by name."""
    added: dict[str, Amount] = {}
    for amounts in of_each:
        for name, amount in amounts.items():
            added[name] = added[name] + amount if name in added else amount
    return added
