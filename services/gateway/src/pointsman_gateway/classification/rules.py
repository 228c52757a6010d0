"""Matches requests against the rules of tasks: conditions that assign a request to a task without the classifier."""

from collections.abc import Mapping
from dataclasses import dataclass

from pointsman_gateway.classification.excerpt import CharacterExcerpt, character_excerpt
from pointsman_gateway.config.tasks_file import RuleConfig, TaskConfig
from pointsman_gateway.domain import Request
from pointsman_gateway.patterns import Pattern, SearchBudget, SearchTimeout


@dataclass(frozen=True, slots=True)
class RuleMatch:
    task: str
    """The task of the first rule that matches; empty if no rule matches."""
    rule: str
    """The name of the rule; empty if no rule matches."""
    notes: tuple[str, ...] = ()
    """Notes that name the patterns whose search took too long, and say if only an excerpt of the text was searched."""


class RuleMatcher:
    """Assigns a request to the task of the first rule that matches it.

    The rules of all tasks are tried in the order of the configuration.
    """

    def __init__(self, tasks: Mapping[str, TaskConfig]) -> None:
        self._rules = [
            (task, rule, Pattern(rule.regex) if rule.regex else None)
            for task, config in tasks.items()
            for rule in config.rules
        ]

    def match(self, request: Request) -> RuleMatch | None:
        """Returns the first rule that matches the request; None if none matches.

        Patterns are searched in `request.query`, or in an excerpt of it if it is long (`character_excerpt`). All
        searches together have `SEARCH_TIMEOUT_SECONDS` of CPU time; a rule whose search is aborted does not match. If
        no rule matches and a search was aborted, returns a match with an empty task, whose notes say so.
        """
        if not self._rules:
            return None
        excerpt, budget = character_excerpt(request.query), SearchBudget()
        given_up: tuple[str, ...] = ()
        for task, rule, pattern in self._rules:
            try:
                if _rule_matches(rule, pattern, request, excerpt, budget):
                    return RuleMatch(task, rule.name, (*given_up, *(excerpt.notes if pattern else ())))
            except SearchTimeout as error:
                given_up = (*given_up, f"rule {rule.name}: {error}")
        return RuleMatch("", "", given_up) if given_up else None


def _rule_matches(
    rule: RuleConfig, pattern: Pattern | None, request: Request, excerpt: CharacterExcerpt, budget: SearchBudget
) -> bool:
    """Returns whether all conditions of a rule are met. Raises SearchTimeout if the time of all patterns is used up
    before its pattern is found.
    """
    if any(request.metadata.get(key) != value for key, value in rule.metadata.items()):
        return False
    if rule.has is not None and rule.has not in request.media:
        return False
    if rule.json_schema is not None and rule.json_schema != _asks_for_schema(request):
        return False
    return pattern is None or budget.finds(pattern, excerpt.text)


def _asks_for_schema(request: Request) -> bool:
    response_format = request.sampling.extra.get("response_format")
    return isinstance(response_format, Mapping) and response_format.get("type") == "json_schema"
