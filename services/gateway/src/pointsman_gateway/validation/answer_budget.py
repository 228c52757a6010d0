"""Limits how much work the checks of one answer may take, for all its choices and validators together."""

from abc import abstractmethod
from dataclasses import dataclass, field

from pointsman_gateway.extensions import Choice, Validator
from pointsman_gateway.patterns import SearchBudget

MAX_ANSWER_CHARACTERS = 64 * 1024
MAX_ANSWER_VALUES = 5_000
MAX_STEPS = 50_000
"""Maximum number of schema keywords that are evaluated for one answer; each takes about 100 ns."""
MAX_SEARCHES = 200_000
"""Maximum work of all pattern searches for one answer. The work of a search is the number of the pattern's states times
the number of characters searched; a unit of it takes up to 25 ns."""


class NotJudged(Exception):
    """Raised by a validator that can neither accept nor reject a choice; the message is the reason.

    For example, the check would take too long, or the client's schema cannot be used.
    """


@dataclass(slots=True)
class SchemaBudget:
    """The amount of work that may still be spent on checking one answer by the client's JSON Schema.

    It is counted in characters and JSON values of the answer, steps (evaluated keywords), and searches (work of
    patterns).
    """

    characters: int = MAX_ANSWER_CHARACTERS
    values: int = MAX_ANSWER_VALUES
    steps: int = MAX_STEPS
    searches: int = MAX_SEARCHES

    def take_text(self, text: str) -> None:
        """Subtracts a choice's number of characters and of JSON values, which is estimated without parsing.

        Raises NotJudged if too few are left.
        """
        if len(text) > self.characters:
            raise NotJudged(f"the answer has over {MAX_ANSWER_CHARACTERS:,} characters")
        values = text.count(",") + text.count("[") + text.count("{")
        if values > self.values:
            raise NotJudged(f"the answer has over {MAX_ANSWER_VALUES:,} values")
        self.characters -= len(text)
        self.values -= values

    def take_work(self, steps: int, searches: int) -> None:
        """Subtracts the work to check a choice; raises NotJudged if too little work is left.

        `steps` is the number of keywords to evaluate. `searches` is the sum over all pattern searches of the pattern's
        states times the characters searched.
        """
        if steps > self.steps:
            raise NotJudged(f"the client's schema needs over {MAX_STEPS:,} steps to check the answer")
        if searches > self.searches:
            raise NotJudged("the patterns of the client's schema take too long to search the answer")
        self.steps -= steps
        self.searches -= searches


@dataclass(slots=True)
class AnswerBudget:
    """The amount of work that may still be spent on checking one answer, by the client's schema and by regular
    expressions.
    """

    schema: SchemaBudget = field(default_factory=SchemaBudget)
    search: SearchBudget = field(default_factory=SearchBudget)
    """The time that the searches of all `regex` validators may still take."""


class BudgetedValidator(Validator):
    """A validator whose work is limited for all choices of an answer together, and not for each choice."""

    def objection(self, choice: Choice) -> str | None:
        return self.objection_within(AnswerBudget(), choice)

    @abstractmethod
    def objection_within(self, budget: AnswerBudget, choice: Choice) -> str | None:
        """Returns the reason to reject the choice, or None to accept it, and subtracts the work of the check from
        `budget`.

        If too little of the budget is left, raises NotJudged; a `RegexValidator` rejects the choice instead.
        """
