"""The classification stage of a configuration with tasks that answer from documents."""

from collections.abc import Coroutine
from typing import Any

from pointsman_gateway.classification.cascade import CascadeClassifier
from pointsman_gateway.classification.document_signals import DocumentSignals
from pointsman_gateway.classification.document_tasks import DocumentTasks
from pointsman_gateway.classification.stage import Classification
from pointsman_gateway.domain import Labels, Request


class DocumentClassification:
    """Adds the signals of documents' sketches to a classification stage; implements `Classifier`.

    A request is classified by the same sketches from start to end. Nothing that was cached by earlier ones is used.
    """

    def __init__(self, inner: Classification, classifier: CascadeClassifier, documents: DocumentTasks) -> None:
        """Takes the stage without sketches, and the classifier that it uses."""
        self._inner, self._classifier, self._documents = inner, classifier, documents
        self._signals: DocumentSignals | None = None
        self._informed = inner

    def label(self, request: Request) -> Coroutine[Any, Any, Labels]:
        signals = self._documents.signals
        if signals is not self._signals:
            self._signals = signals
            self._informed = self._inner.with_classifier(self._classifier.with_documents(signals))
        may_use = self._documents.may_use(request.caller.scope)
        return (self._informed if may_use else self._inner).label(request)

    def read(self, request: Request) -> str:
        """Returns the last turn of the user in the user's own words; empty if there is none."""
        return self._inner.read(request)
