"""The classification stage: a named path needs no classification, then rules are tried, then the classifier."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from pointsman_gateway.classification.conversation import Conversation, user_turns
from pointsman_gateway.classification.reader import (
    CharacterExcerpt,
    LanguageDetector,
    Reader,
    abstention,
    character_excerpt,
)
from pointsman_gateway.config.schema import RuleConfig, TaskConfig
from pointsman_gateway.domain import AUTO, UNKNOWN, Labels, Request

_FORCED = Labels(UNKNOWN, 1.0, (), abstained=False, stage="forced")


class Classifier(Protocol):
    """Assigns a text to a task, or abstains."""

    async def classify(self, text: str) -> Labels:
        """Classify a text. Of a long one only an excerpt is read, and the notes say so."""
        ...


@dataclass(frozen=True, slots=True)
class RuleMatch:
    """The rule that matched, and its task."""

    task: str
    rule: str
    notes: tuple[str, ...] = ()


class RuleMatcher:
    """All rules of all tasks, in the order of the configuration; the first that matches decides."""

    def __init__(self, tasks: Mapping[str, TaskConfig]) -> None:
        self._rules = [
            (task, rule, re.compile(rule.regex) if rule.regex else None)
            for task, config in tasks.items()
            for rule in config.rules
        ]

    def match(self, request: Request) -> RuleMatch | None:
        """Return the first match. Patterns search only an excerpt of a long text."""
        if not self._rules:
            return None
        excerpt = character_excerpt(request.query)
        for task, rule, pattern in self._rules:
            if _rule_matches(rule, pattern, request, excerpt):
                return RuleMatch(task, rule.name, excerpt.notes if pattern else ())
        return None


class Classification:
    """Assigns a request to a task. The text decides the task only; a path named in it is never looked up."""

    def __init__(self, rules: RuleMatcher, classifier: Classifier, languages: Collection[str] = ("en",)) -> None:
        """`languages`: those of the examples; if empty, texts in every language are classified."""
        self._rules = rules
        self._conversation = Conversation(Reader(classifier.classify, LanguageDetector(languages)))

    async def label(self, request: Request) -> Labels:
        if request.model != AUTO:
            return _FORCED
        matched = self._rules.match(request)
        if matched:
            stage = f"rule:{matched.rule}"
            return Labels(matched.task, 1.0, (), abstained=False, stage=stage, notes=matched.notes)
        turns = user_turns(request.messages)
        if not turns:
            return abstention("conversation", "there is no user message")
        return await self._conversation.label(turns)


def _rule_matches(
    rule: RuleConfig, pattern: re.Pattern[str] | None, request: Request, excerpt: CharacterExcerpt
) -> bool:
    if any(request.metadata.get(key) != value for key, value in rule.metadata.items()):
        return False
    if pattern is not None and not pattern.search(excerpt.text):
        return False
    return rule.json_schema is None or rule.json_schema == _asks_for_schema(request)


def _asks_for_schema(request: Request) -> bool:
    response_format = request.sampling.extra.get("response_format")
    return isinstance(response_format, Mapping) and response_format.get("type") == "json_schema"
