"""What each path was given to do for one request, and what that took."""

import time
from dataclasses import dataclass, field

from pointsman_gateway.domain import Path, Prompt, Usage
from pointsman_gateway.metering.pricing import Parts, Pricing, tokens_of


@dataclass(slots=True)
class Try:
    """One path's work."""

    path: Path
    begun: float
    prompt: Prompt = field(default_factory=lambda: Prompt(()))
    sent: float | None = None
    first_piece: float | None = None
    pieces: int = 0
    held: float = 0.0
    usage: Usage | None = None
    model: str = ""
    cached: str = ""
    hedged: int = 0
    waited: float = 0.0
    """Seconds until its adapter was loaded, or was not."""
    failure: str = ""
    """The code of what kept it from answering."""
    refused: bool = False
    """By a validator."""
    ended: float | None = None
    """When its work had come to its end, where another path's came after it."""

    @property
    def counted(self) -> Usage:
        """The engine's own count; where an answer was cut before it came, an estimate.

        That is the pieces that arrived (a token or more each), and the prompt by its length: it has been read by then.
        """
        if self.usage is not None or not self.pieces:
            return self.usage or Usage()
        return Usage(tokens_of(self.prompt.messages), self.pieces)

    @property
    def overhead(self) -> float:
        """Seconds from beginning to sending, without retrieval."""
        return 0.0 if self.sent is None else self.sent - self.begun - self.prompt.seconds.get("retrieval", 0.0)

    @property
    def seconds(self) -> dict[str, float]:
        """By phase, up to the first piece; and those for which the answer was held back after it."""
        seconds = dict(self.prompt.seconds)
        if self.waited:
            seconds["adapter"] = self.waited
        if self.sent is not None and not self.cached:
            self._add_engine(seconds, self.first_piece or self.ended or time.perf_counter())
        if self.held:
            seconds["held"] = self.held
        return seconds

    def _add_engine(self, seconds: dict[str, float], until: float) -> None:
        """The time until its first piece: in the engine's queue, where it tells that, and beyond it."""
        assert self.sent is not None
        waiting = max(0.0, until - self.sent - self.waited)
        told = self.usage.seconds.queue if self.usage is not None and self.usage.seconds is not None else None
        if told is not None:
            seconds["queue"] = min(told, waiting)
            waiting -= seconds["queue"]
        seconds["prefill"] = waiting

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
