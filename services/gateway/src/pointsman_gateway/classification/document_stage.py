"""The classification stage of a configuration with tasks that answer from documents."""

from dataclasses import replace

from pointsman_gateway.classification.cascade import CascadeClassifier
from pointsman_gateway.classification.document_signals import DocumentSignals
from pointsman_gateway.classification.document_tasks import DocumentTasks
from pointsman_gateway.classification.stage import Classification
from pointsman_gateway.domain import AUTO, Labels, Request


class DocumentClassification:
    """A classification stage that also recognizes texts by their similarity to documents; implements `Classifier`.

    It wraps a stage without documents, and uses sketches (samples of the documents' vectors). One request is classified
    by the same sketches from start to end. Results that were cached with earlier sketches are not used.
    """

    def __init__(self, inner: Classification, classifier: CascadeClassifier, documents: DocumentTasks) -> None:
        """Takes the stage to wrap, the classifier of that stage, and the tasks that answer from documents."""
        self._inner, self._classifier, self._documents = inner, classifier, documents
        self._signals: DocumentSignals | None = None
        self._informed = inner

    async def label(self, request: Request) -> Labels:
        signals = self._documents.signals
        if signals is not self._signals:
            self._signals = signals
            self._informed = self._inner.with_classifier(self._classifier.with_documents(signals))
        if signals is None or request.model != AUTO or not self._documents.may_use(request.caller.scope):
            return await self._inner.label(request)
        labels = await self._informed.label(request)
        if not _is_about_several_texts(request, labels):
            return labels  # if it was compared with documents, its notes say so
        return replace(labels, notes=(*labels.notes, signals.note))

    def read(self, request: Request) -> str:
        """Returns the user's own words in the last message, without what clients write around them; empty if there are
        none.
        """
        return self._inner.read(request)


def _is_about_several_texts(request: Request, labels: Labels) -> bool:
    """Returns whether the labels depend on texts whose notes they do not contain: earlier turns, or other parts of the
    message.
    """
    return labels.stage == "parts" or sum(message.role == "user" for message in request.messages) > 1
