"""Assigns each request to a task, by rules or by the classifier. `fitting` learns the classifier from examples.

This module has what a configuration without tasks needs; it imports nothing of the others.
"""

from pointsman_gateway.domain import AUTO, UNKNOWN, Labels, Request

FORCED = Labels(UNKNOWN, 1.0, (), abstained=False, stage="forced")
_NO_TASKS = Labels(UNKNOWN, 1.0, (), abstained=True, stage="no_tasks", notes=("the configuration has no tasks",))


class NoClassification:
    """Assigns no task, so that requests for `auto` take the default path."""

    async def label(self, request: Request) -> Labels:
        return _NO_TASKS if request.model == AUTO else FORCED
