"""Limits of the work to check one answer, over all its choices and validators."""

from abc import abstractmethod
from dataclasses import dataclass, field

from pointsman_gateway.extensions import Choice, Validator
from pointsman_gateway.patterns import SearchBudget

MAX_ANSWER_CHARACTERS = 64 * 1024
MAX_ANSWER_VALUES = 5_000
MAX_STEPS = 50_000
"""Keywords that are evaluated, in about 100 ns each."""
MAX_SEARCHES = 200_000
"""States of patterns times characters, in up to 25 ns each."""


class NotJudged(Exception):
    """A validator neither accepts nor rejects a choice, because the check would take too long; with the reason."""


@dataclass(slots=True)
class SchemaBudget:
    """The work that is left for the checks of an answer by a client's schema."""

    characters: int = MAX_ANSWER_CHARACTERS
    values: int = MAX_ANSWER_VALUES
    steps: int = MAX_STEPS
    searches: int = MAX_SEARCHES

    def take_text(self, text: str) -> None:
        """Subtracts the work to parse a choice; raises NotJudged if that exceeds the budget."""
        if len(text) > self.characters:
            raise NotJudged(f"the answer has over {MAX_ANSWER_CHARACTERS:,} characters")
        values = text.count(",") + text.count("[") + text.count("{")
        if values > self.values:
            raise NotJudged(f"the answer has over {MAX_ANSWER_VALUES:,} values")
        self.characters -= len(text)
        self.values -= values

    def take_work(self, steps: int, searches: int) -> None:
        """Subtracts the work to check a choice; raises NotJudged if that exceeds the budget."""
        if steps > self.steps:
            raise NotJudged(f"the client's schema needs over {MAX_STEPS:,} steps to check the answer")
        if searches > self.searches:
            raise NotJudged("the patterns of the client's schema take too long to search the answer")
        self.steps -= steps
        self.searches -= searches


@dataclass(slots=True)
class AnswerBudget:
    """The work that is left for the checks of an answer."""

    schema: SchemaBudget = field(default_factory=SchemaBudget)
    search: SearchBudget = field(default_factory=SearchBudget)
    """Of all `regex` validators."""


class BudgetedValidator(Validator):
    """A validator whose work is limited for an answer as a whole, not for each of its choices."""

    def objection(self, choice: Choice) -> str | None:
        return self.objection_within(AnswerBudget(), choice)

    @abstractmethod
    def objection_within(self, budget: AnswerBudget, choice: Choice) -> str | None:
        """Returns why the choice is rejected, None if it is accepted.

        Subtracts the work of the check from `budget`; raises NotJudged if too little of it is left.
        """
