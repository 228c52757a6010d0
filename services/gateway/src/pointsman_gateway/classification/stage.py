"""The stage: forced paths need no classification, rules come first, then the conversation is read."""

from collections.abc import Collection
from typing import Protocol

from pointsman_gateway.classification.conversation import Conversation
from pointsman_gateway.classification.language import Languages
from pointsman_gateway.classification.reading import Reader, unread
from pointsman_gateway.classification.rules import Rules
from pointsman_gateway.classification.turns import user_turns
from pointsman_gateway.domain import AUTO, UNKNOWN, Labels, Request

_FORCED = Labels(UNKNOWN, 1.0, (), abstained=False, stage="forced")


class Classifier(Protocol):
    """Says which task a text belongs to, or that it belongs to none."""

    async def classify(self, text: str) -> Labels:
        """A long text is read in part, and the labels' notes say so."""
        ...


class Classification:
    """Request in, Labels out: a text chooses a task and nothing else; no name that stands in it is looked up."""

    def __init__(self, rules: Rules, classifier: Classifier, languages: Collection[str] = ("en",)) -> None:
        """`languages`: those that the examples are written in; without any, every language passes."""
        self._rules = rules
        self._conversation = Conversation(Reader(classifier.classify, Languages(languages)))

    async def label(self, request: Request) -> Labels:
        if request.model != AUTO:
            return _FORCED
        matched = self._rules.match(request)
        if matched:
            stage = f"rule:{matched.rule}"
            return Labels(matched.task, 1.0, (), abstained=False, stage=stage, notes=matched.notes)
        turns = user_turns(request.messages)
        if not turns:
            return unread("conversation", "there is no user message")
        return await self._conversation.label(turns)
