"""Rules: exact, free, explainable; they come before the classifier."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pointsman_gateway.classification.ends import Ends, ends_of
from pointsman_gateway.config.schema import RuleConfig, TaskConfig
from pointsman_gateway.domain import Request


@dataclass(frozen=True, slots=True)
class Match:
    task: str
    rule: str
    notes: tuple[str, ...] = ()


class Rules:
    """All rules of all tasks, in the order in which they are written; the first that holds decides."""

    def __init__(self, tasks: Mapping[str, TaskConfig]) -> None:
        self._rules = [
            (task, rule, re.compile(rule.regex) if rule.regex else None)
            for task, config in tasks.items()
            for rule in config.rules
        ]

    def match(self, request: Request) -> Match | None:
        """A pattern is shown the ends of a long text."""
        if not self._rules:
            return None
        ends = ends_of(request.query)
        for task, rule, pattern in self._rules:
            if _holds(rule, pattern, request, ends):
                return Match(task, rule.name, ends.notes if pattern else ())
        return None


def _holds(rule: RuleConfig, pattern: re.Pattern[str] | None, request: Request, ends: Ends) -> bool:
    if any(request.metadata.get(key) != value for key, value in rule.metadata.items()):
        return False
    if pattern is not None and not pattern.search(ends.text):
        return False
    return rule.json_schema is None or rule.json_schema == _wants_schema(request)


def _wants_schema(request: Request) -> bool:
    response_format = request.sampling.extra.get("response_format")
    return isinstance(response_format, Mapping) and response_format.get("type") == "json_schema"
