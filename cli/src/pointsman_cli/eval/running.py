"""All rows down all paths, so many at once."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Protocol

import httpx

from pointsman_cli.eval.answers import Answer, AnswerFile
from pointsman_cli.eval.asking import Work, answered
from pointsman_cli.eval.plan import Plan


class Watcher(Protocol):
    def came(self, answer: Answer) -> None:
        """One answer more."""
        ...


async def run(
    plan: Plan, client: httpx.AsyncClient, answers: AnswerFile, at_once: int, watcher: Watcher
) -> list[Answer]:
    """All answers, those that were known among them. Raises CommandError where going on makes no sense."""
    planned = list(works(plan))
    came = [answers.known[work.place] for work in planned if work.place in answers.known]
    waiting = iter([work for work in planned if work.place not in answers.known])

    async def ask_on() -> None:
        for work in waiting:  # one iterator for all: each takes the next
            answer = await answered(client, work)
            answers.add(answer)
            came.append(answer)
            watcher.came(answer)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(ask_on())
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return _in_order(plan, came)


def works(plan: Plan) -> Iterator[Work]:
    """Row by row, and each row's paths beginning with another: what comes later in a row finds warmer caches."""
    for task in plan.tasks.values():
        for number, row in enumerate(task.rows):
            for path in _turned(task.paths, number):
                yield Work(row, path, task.scorer)


def _turned(paths: Sequence[str], by: int) -> Sequence[str]:
    by %= len(paths)
    return (*paths[by:], *paths[:by])


def _in_order(plan: Plan, answers: Sequence[Answer]) -> list[Answer]:
    """As the rows and the paths are: the order in which they came is nobody's business."""
    by_place = {(answer.row, answer.path): answer for answer in answers}
    return [by_place[row.id, path] for task in plan.tasks.values() for row in task.rows for path in task.paths]
