"""The schema of a model's token prices: by kind of token, and by the length of the prompt."""

from collections.abc import Mapping
from itertools import pairwise

from pydantic import Field, model_validator

from pointsman_gateway.config.field_types import Dollars, Strict

HOW_TO_WRITE_PRICES = "write {prompt: DOLLARS, cached: DOLLARS, completion: DOLLARS}, or unknown"


class TokenPrices(Strict):
    """Dollars per million tokens by kind of token; None for a kind without a price. The first three are required."""

    prompt: Dollars
    cached: Dollars
    completion: Dollars
    cache_write: Dollars | None = Field(
        default=None, description="for the provider's usual time, which is 5 minutes at Anthropic"
    )
    cache_write_1h: Dollars | None = Field(default=None, description="for an hour")
    prompt_audio: Dollars | None = None
    prompt_image: Dollars | None = Field(
        default=None, description="if the provider counts images apart; most count them as tokens of the prompt"
    )
    reasoning: Dollars | None = Field(default=None, description="unset: the price of the completion")
    completion_audio: Dollars | None = None
    completion_image: Dollars | None = None

    @property
    def by_kind(self) -> Mapping[str, float]:
        """Returns the prices that are set: kind of token, such as "prompt" -> dollars per million tokens."""
        prices = {kind: getattr(self, kind) for kind in TokenPrices.model_fields}
        return {kind: price for kind, price in prices.items() if price is not None}


class LongPromptPrices(TokenPrices):
    above: int = Field(ge=1, description="tokens of the prompt: longer ones have these prices, with their answers")


class Prices(TokenPrices):
    """Prices of a model's tokens, in dollars per million tokens.

    If an answer has tokens of a kind without a price, its cost is unknown; only `reasoning` tokens then cost as much as
    `completion`.
    """

    long_prompts: tuple[LongPromptPrices, ...] = Field(
        default=(), description="prices of longer prompts, the shortest first"
    )

    @model_validator(mode="after")
    def _long_prompts_are_ordered(self) -> "Prices":
        limits = [0, *(longer.above for longer in self.long_prompts)]
        for before, above in pairwise(limits):
            if above <= before:
                raise ValueError(f"'above' of long_prompts must rise, and {above} follows {before}")
        return self

    @model_validator(mode="after")
    def _long_prompts_have_the_same_kinds(self) -> "Prices":
        for longer in self.long_prompts:
            for one, other, lacking in ((self, longer, "longer"), (longer, self, "shorter")):
                missing = one.by_kind.keys() - other.by_kind.keys()
                if missing:
                    raise ValueError(
                        f"'{min(missing)}' has no price for {lacking} prompts, and one for the others: write both, or "
                        f"none (above: {longer.above})"
                    )
        return self
