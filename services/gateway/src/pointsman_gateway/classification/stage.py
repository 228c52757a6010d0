"""The stage: forced paths need no classification, rules come first, then the classifier."""

from pointsman_gateway.classification.classifier import Classifier
from pointsman_gateway.classification.rules import Rules
from pointsman_gateway.domain import AUTO, UNKNOWN, Labels, Request


class Classification:
    """Request in, Labels out."""

    def __init__(self, rules: Rules, classifier: Classifier) -> None:
        self._rules = rules
        self._classifier = classifier

    async def label(self, request: Request) -> Labels:
        if request.model != AUTO:
            return Labels(UNKNOWN, 1.0, (), abstained=False, stage="forced")
        matched = self._rules.match(request)
        if matched:
            return Labels(matched.task, 1.0, (), abstained=False, stage=f"rule:{matched.rule}")
        return await self._classifier.classify(request.query)
