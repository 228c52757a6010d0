"""Records one attempt to answer a request along a path: its tokens, cost in picodollars (1e-12 dollars) and seconds."""

from collections.abc import Iterable, Mapping, Sequence
from time import perf_counter
from typing import TypeVar

from pointsman_gateway.domain import Chunks, Path, Prompt, Request, Usage
from pointsman_gateway.domain.usage import PROMPT_KINDS
from pointsman_gateway.metering.price_table import CostParts
from pointsman_gateway.metering.pricing import Pricing
from pointsman_gateway.metering.token_estimates import estimate_usage

NO_PROMPT = Prompt(())
_PROMPT_PARTS = ("prompt", "cached", *PROMPT_KINDS)

Amount = TypeVar("Amount", int, float)

Work = tuple[Usage, CostParts, dict[str, float]]
"""Tokens, picodollars by component, and seconds by phase."""


class PathAttempt:
    """Records one attempt to answer a request along a path: its usage and points in time. A receipt sums all attempts
    of the request.
    """

    # Reading a slot takes a tenth of the time of reading a default value from the class.
    __slots__ = (
        "buffered_seconds",
        "cached",
        "default_max_tokens",
        "embeddings",
        "ended",
        "engine",
        "estimate",
        "failure",
        "finish_reason",
        "first_piece",
        "loading_seconds",
        "model",
        "path",
        "pieces",
        "prompt",
        "refused",
        "sent",
        "started",
        "unanswered",
        "usage",
    )

    def __init__(self, path: Path, started: float) -> None:
        """Starts to record the work of `path`; `started` and all points in time here are seconds of `perf_counter`."""
        self.path = path
        self.started = started
        self.prompt = NO_PROMPT
        self.sent: float | None = None
        self.first_piece: float | None = None
        self.pieces = 0
        self.finish_reason = ""
        """The finish reason of the choice that ended last."""
        self.buffered_seconds = 0.0
        self.usage: Usage | None = None
        self.estimate: Usage | None = None
        """The last estimate of the usage that was set while the answer was generated; None if there is none."""
        self.model = ""
        self.engine = ""
        self.cached = ""
        self.unanswered = 0
        """The number of calls that were given up before their answer was used, although the engine had the prompt."""
        self.embeddings = 0
        self.default_max_tokens: int | None = None
        """The `max_tokens` that the gateway set, since neither the request nor the path did; None if it set none."""
        self.loading_seconds = 0.0
        """Seconds for which the attempt waited for its adapter, whether it was loaded in the end or not."""
        self.failure = ""
        """The code of the error that prevented an answer; empty if the attempt has not failed."""
        self.refused = False
        """Whether a validator refused the answer."""
        self.ended: float | None = None
        """The time at which the attempt ended because another attempt followed; None if none followed."""

    def work(self, pricing: Pricing, request: Request) -> Work:
        """Returns the attempt's tokens, its cost in picodollars by component, and its seconds by phase.

        Tokens that no engine has counted are estimated, including the prompt's tokens of calls that were given up.
        `request` is the request that the attempt answers.
        """
        usage, others = self.usage, self.unanswered
        if usage is None:
            is_sent = bool(self.pieces or others)
            tier = pricing.tier_of(self.path.model, request) if is_sent else ""
            usage = estimate_usage(self.prompt.messages, self.pieces, self.estimate, tier, is_sent=is_sent)
            if not self.pieces and others:
                others -= 1  # the usage is that of one of them
        return usage, self._cost(pricing, usage, others), self._seconds(usage)

    def set_prompt(self, prompt: Prompt) -> None:
        """Records that the prompt is complete and is sent to an engine now."""
        self.prompt, self.sent = prompt, perf_counter()

    def set_answer(
        self,
        model: str,
        engine: str = "",
        cached: str = "",
        loading_seconds: float = 0.0,
        embeddings: int = 0,
    ) -> None:
        """Records that the answer has begun, or was found in the cache (`cached`: "exact" or "semantic", else empty).

        `model` is the engine's name of the model that answers, and `engine` the engine's name. `embeddings` is the
        number of texts that were embedded to look the request up in the cache, and `loading_seconds` the time that the
        attempt waited for its adapter.
        """
        self.model, self.engine = model, engine
        if cached or loading_seconds or embeddings:
            self.cached, self.loading_seconds, self.embeddings = cached, loading_seconds, embeddings

    def record_unanswered(self, engine: str, model: str) -> None:
        self.unanswered += 1
        if not self.engine:
            self.engine, self.model = engine, model

    def count_chunks(self, chunks: Chunks) -> None:
        """Counts the pieces of the answer, and records when the first one came and why the answer ended.

        Must be called with all chunks of the answer, in order. Each event of the engine that has text or other content
        is one piece. How many events arrive together depends on the network, so it does not affect the count.
        """
        pieces = self.pieces
        for chunk in chunks:
            if chunk.content or chunk.extra:
                pieces += chunk.event_count
            if chunk.finish_reason:
                self.finish_reason = chunk.finish_reason
        self.pieces = pieces
        if self.first_piece is None and pieces:
            self.first_piece = perf_counter()

    @property
    def embeddings_made(self) -> int:
        """Returns how many queries were embedded to build the prompt and to look into the cache."""
        return self.prompt.embeddings + self.embeddings

    def overhead(self) -> float:
        """Returns the seconds from the attempt's start until its prompt was sent, without retrieval; 0 if no prompt was
        sent.
        """
        return 0.0 if self.sent is None else self.sent - self.started - self.prompt.seconds.get("retrieval", 0.0)

    def _seconds(self, usage: Usage) -> dict[str, float]:
        """Returns the seconds of each phase that the attempt had: those of building the prompt, "adapter" (waiting for
        it), "queue" (only if the engine reports it), "prefill" and "held" (the answer was buffered).

        "prefill" is the time from sending the prompt to the first piece, without "adapter" and "queue".
        """
        seconds = {**self.prompt.seconds}
        if self.loading_seconds:
            seconds["adapter"] = self.loading_seconds
        if self.sent is not None and not self.cached:
            waiting = (self.first_piece or self.ended or perf_counter()) - self.sent - self.loading_seconds
            waiting = waiting if waiting > 0 else 0.0
            reported = usage.seconds
            if reported is not None and reported.queue is not None:
                queue = seconds["queue"] = reported.queue if reported.queue < waiting else waiting
                waiting -= queue
            seconds["prefill"] = waiting
        if self.buffered_seconds:
            seconds["held"] = self.buffered_seconds
        return seconds

    def _cost(self, pricing: Pricing, usage: Usage, others: int) -> CostParts:
        """Returns the picodollars by component, with a share of the training cost if an adapter answered. `others` is
        the number of further engines that got the prompt.

        If a price is unknown, `UNPRICED` is among the components; see `Pricing.parts`.
        """
        if self.cached:
            parts = pricing.cache_hit()
        else:
            parts = pricing.parts(self.path.model, usage)
            if pricing.charges_answers and self.pieces:
                pricing.add_charges(parts, self.path.model, self.prompt.messages)
            if others and "prompt" in parts:
                # The cancelled engines may have processed the prompt and report no usage: that of the other is charged.
                parts["hedge"] = sum(parts.get(component, 0) for component in _PROMPT_PARTS) * others
            if self.path.adapter and self.pieces:
                training = pricing.training(self.path.model, self.model)
                if training:
                    parts["training"] = training
        prompt = self.prompt
        if prompt.searches:
            parts["retrieval"] = pricing.searches(prompt.searches)
        if (embeddings := self.embeddings_made) and (cost := pricing.embeddings(embeddings)):
            parts["embedding"] = cost
        return parts


def sum_attempts(work: Sequence[Work]) -> Work:
    usages, parts, seconds = zip(*work, strict=True) if work else ((), (), ())
    return sum(usages, Usage()), _sum_by_name(parts), _sum_by_name(seconds)


def _sum_by_name(mappings: Iterable[Mapping[str, Amount]]) -> dict[str, Amount]:
    sums: dict[str, Amount] = {}
    for amounts in mappings:
        for name, amount in amounts.items():
            sums[name] = sums[name] + amount if name in sums else amount
    return sums
