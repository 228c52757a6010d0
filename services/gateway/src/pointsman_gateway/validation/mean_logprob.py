"""The validator `mean_logprob`: how sure the model was of its own words."""

from statistics import fmean

from pointsman_gateway.validation.transcript import Choice


class MeanLogprob:
    name = "mean_logprob"

    def __init__(self, least: float) -> None:
        self._least = least

    def objection(self, choice: Choice) -> str | None:
        """An engine that tells no log-probabilities vouches for nothing."""
        if not choice.logprobs:
            return None if choice.only_calls_tools else "the engine told no log-probabilities"
        mean = fmean(choice.logprobs)
        return None if mean >= self._least else f"{mean:.3f}, under {self._least:.3f}"
