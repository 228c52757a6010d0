"""Finds the tasks that the classifier may recognize by documents: a request may belong to a task if documents of the
task's collections match the request.
"""

from collections.abc import Sequence

from pointsman_gateway.bootstrap.loaded_models import LoadedModels
from pointsman_gateway.classification.document_tasks import DocumentTasks
from pointsman_gateway.config.load import Config
from pointsman_gateway.domain import Path


def find_document_tasks(config: Config, paths: Sequence[Path], models: LoadedModels) -> DocumentTasks | None:
    """Returns the tasks that the classifier may recognize by documents: those whose policy has a path that searches a
    collection of documents.

    `paths` are all configured paths. Tasks with `by_documents: false` are left out. Returns None if no task is left, if
    there is no classifier, or if the classifier has no encoder stage (an embedding model).
    """
    if models.classifier is None or "encoder" not in config.tasks.classifier.stages:
        return None
    searching = {path.name: path for path in paths if path.collections}
    found = {
        name: [searching[path] for path in task.policy.paths if path in searching]
        for name, task in config.tasks.tasks.items()
        if task.by_documents
    }
    by_task = {task: used for task, used in found.items() if used}
    return DocumentTasks(by_task, models.classifier.model, models.fingerprint) if by_task else None
