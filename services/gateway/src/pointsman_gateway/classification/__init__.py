"""Assigns each request to a task, by rules or by a classifier that is trained on the tasks' example texts.

This `__init__` contains only what a configuration without tasks needs. It imports no other module of `classification`,
so that such a configuration does not load the classifier. The package `fitting` trains the classifier.
"""

from pointsman_gateway.domain import AUTO, UNKNOWN, Labels, Request

FORCED = Labels(UNKNOWN, 1.0, (), abstained=False, stage="forced")
_NO_TASKS = Labels(UNKNOWN, 1.0, (), abstained=True, stage="no_tasks", notes=("the configuration has no tasks",))


class NoClassification:
    """Implements `Classifier` for a configuration without tasks: assigns no task, so that requests for the model `auto`
    take the default path.
    """

    async def label(self, request: Request) -> Labels:
        return _NO_TASKS if request.model == AUTO else FORCED
