"""The validators `complete`, `regex` and `mean_logprob`.

The reasons of a rejection are stored even if messages are not, so they do not quote the answer.
"""

from statistics import fmean
from typing import Annotated, Literal

from pydantic import Field

from pointsman_gateway.extensions import Choice, Validator
from pointsman_gateway.patterns import Pattern, SearchTimeout
from pointsman_gateway.validation.answer_budget import AnswerBudget, BudgetedValidator

CUT_OFF = {
    "length": "cut off at its longest",
    "content_filter": "cut off by a filter",
    "abort": "broken off",
    "error": "broken off",
}
"""The reason to reject a choice, by its finish reason, for those finish reasons that mean an incomplete text."""

MAX_SEARCHED_CHARACTERS = 65_536
"""Number of characters at the start of a text that are searched; the rest of a longer text is ignored."""


class Complete(Validator):
    """A validator that rejects a choice that was cut off, or has neither text nor tool calls."""

    Options = Literal[True]
    checks_format = False

    def __init__(self, options: bool) -> None:
        pass

    def objection(self, choice: Choice) -> str | None:
        if choice.finish_reason in CUT_OFF:
            return CUT_OFF[choice.finish_reason]
        return None if choice.text.strip() or choice.calls_tools else "empty"


class RegexValidator(BudgetedValidator):
    """A validator that rejects a choice if a regular expression does not match any part of its text.

    Only the first `MAX_SEARCHED_CHARACTERS` characters are searched. A choice is also rejected if the time for the
    searches of the whole answer is used up (`SEARCH_TIMEOUT_SECONDS`). A choice that only calls tools is accepted.
    """

    Options = str

    def __init__(self, options: str) -> None:
        """Compiles the pattern; raises BadPattern if it is not a valid regular expression."""
        self._pattern = Pattern(options)

    def objection_within(self, budget: AnswerBudget, choice: Choice) -> str | None:
        if choice.only_calls_tools:
            return None
        try:
            is_found = budget.search.finds(self._pattern, choice.text[:MAX_SEARCHED_CHARACTERS])
        except SearchTimeout as error:
            return str(error)
        return None if is_found else f"{self._pattern.text!r} is not found"


class MeanLogprob(Validator):
    """A validator that rejects a choice whose tokens have a mean log-probability (natural) below a minimum."""

    Options = Annotated[float, Field(le=0)]
    checks_format = False
    needs_logprobs = True

    def __init__(self, options: float) -> None:
        self._minimum = options

    def objection(self, choice: Choice) -> str | None:
        """Returns the reason to reject the choice, if the mean of its log-probabilities is too low; None to accept it.

        Also rejects a choice if the engine reported no log-probabilities, unless the choice only calls tools.
        """
        if not choice.logprobs:
            return None if choice.only_calls_tools else "the engine reported no log-probabilities"
        mean = fmean(choice.logprobs)
        return None if mean >= self._minimum else f"{mean:.3f}, under {self._minimum:.3f}"
