"""How an engine is to sample."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from pointsman_gateway.domain.noun import noun


@noun
class Sampling:
    """How to sample; None is "as the path says, else as the engine does"."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    """OpenAI parameters on which the gateway has no opinion, passed to the engine untouched."""

    def over(self, default: "Sampling") -> "Sampling":
        """This one, with the gaps filled from `default`."""
        return Sampling(
            max_tokens=self.max_tokens if self.max_tokens is not None else default.max_tokens,
            temperature=self.temperature if self.temperature is not None else default.temperature,
            top_p=self.top_p if self.top_p is not None else default.top_p,
            seed=self.seed if self.seed is not None else default.seed,
            stop=self.stop or default.stop,
            extra={**default.extra, **self.extra},
        )
