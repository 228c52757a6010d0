"""What each path was given to do for one request, and what that took."""

import time

from pointsman_gateway.domain import Chunks, Path, Prompt, Usage
from pointsman_gateway.metering.pricing import Parts, Pricing, tokens_of

NO_PROMPT = Prompt(())


class Try:
    """One path's work. What is not set on it stands on its class: one is made for each request."""

    prompt = NO_PROMPT
    sent: float | None = None
    first_piece: float | None = None
    pieces = 0
    held = 0.0
    usage: Usage | None = None
    model = ""
    cached = ""
    hedged = 0
    waited = 0.0
    """Seconds until its adapter was loaded, or was not."""
    failure = ""
    """The code of what kept it from answering."""
    refused = False
    """By a validator."""
    ended: float | None = None
    """When its work had come to its end, where another path's came after it."""

    def __init__(self, path: Path, begun: float) -> None:
        self.path = path
        self.begun = begun

    @property
    def counted(self) -> Usage:
        """The engine's own count; where an answer was cut before it came, an estimate.

        That is the pieces that arrived (a token or more each), and the prompt by its length: it has been read by then.
        """
        if self.usage is not None or not self.pieces:
            return self.usage or Usage()
        return Usage(tokens_of(self.prompt.messages), self.pieces)

    def prompted(self, prompt: Prompt) -> None:
        """Its prompt is made, and goes to an engine."""
        self.prompt, self.sent = prompt, time.perf_counter()

    def opened(self, model: str, cached: str = "", hedged: int = 0, waited: float = 0.0) -> None:
        """`model` has begun to answer, or what it once answered was found in the cache.

        `hedged` other engines were given the same prompt, and let go of before they began. `waited` seconds passed
        until its adapter was loaded.
        """
        self.model = model
        if cached or hedged or waited:
            self.cached, self.hedged, self.waited = cached, hedged, waited

    def came(self, chunks: Chunks) -> None:
        """A part of the answer has come. This stands in the way of every piece.

        Each is looked at by itself: how many come at once is a matter of the network, and must not be one of money.
        """
        for chunk in chunks:
            if chunk.content or chunk.extra:
                self.pieces += 1
        if self.first_piece is None and self.pieces:
            self.first_piece = time.perf_counter()

    @property
    def overhead(self) -> float:
        """Seconds from beginning to sending, without retrieval."""
        return 0.0 if self.sent is None else self.sent - self.begun - self.prompt.seconds.get("retrieval", 0.0)

    @property
    def seconds(self) -> dict[str, float]:
        """By phase, up to the first piece; and those for which the answer was held back after it. Until its first piece
        it was in the engine's queue, where the engine tells that, and beyond it."""
        seconds = dict(self.prompt.seconds)
        if self.waited:
            seconds["adapter"] = self.waited
        if self.sent is not None and not self.cached:
            waiting = (self.first_piece or self.ended or time.perf_counter()) - self.sent - self.waited
            usage = self.usage
            if usage is not None and usage.seconds is not None and usage.seconds.queue is not None:
                queue = seconds["queue"] = min(usage.seconds.queue, max(waiting, 0.0))
                waiting -= queue
            seconds["prefill"] = waiting if waiting > 0 else 0.0
        if self.held:
            seconds["held"] = self.held
        return seconds

    def parts(self, pricing: Pricing) -> Parts:
        """What it cost; of an adapter that has answered, a share of its training too."""
        if self.cached:
            parts = pricing.hit()
        else:
            parts = pricing.parts(self.path.model, self.counted)
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
        if prompt.embeddings and (embedding := pricing.embeddings(prompt.embeddings)):
            parts["embedding"] = embedding
        return parts
