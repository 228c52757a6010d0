"""Rules: exact, free, explainable; they come before the classifier."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pointsman_gateway.config.schema import Rule, TaskConfig
from pointsman_gateway.domain import Request


@dataclass(frozen=True, slots=True)
class Match:
    task: str
    rule: str


class Rules:
    """All rules of all tasks, in the order in which they are written; the first that holds decides."""

    def __init__(self, tasks: Mapping[str, TaskConfig]) -> None:
        self._rules = [
            (task, rule, re.compile(rule.regex) if rule.regex else None)
            for task, config in tasks.items()
            for rule in config.rules
        ]

    def match(self, request: Request) -> Match | None:
        for task, rule, pattern in self._rules:
            if _holds(rule, pattern, request):
                return Match(task, rule.name)
        return None


def _holds(rule: Rule, pattern: re.Pattern[str] | None, request: Request) -> bool:
    if any(request.metadata.get(key) != value for key, value in rule.metadata.items()):
        return False
    if pattern is not None and not pattern.search(request.query):
        return False
    wants_schema = "response_format" in request.sampling.extra
    return rule.json_schema is None or rule.json_schema == wants_schema
