"""The stage beside the line: stands around the journal, and sends a share of what is noted there down another path."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from pointsman_gateway.config.schema import ShadowConfig
from pointsman_gateway.domain import ANYONE, Answered, Decision, Labels, Receipt, Request, Undecided
from pointsman_gateway.journal.keys import today
from pointsman_gateway.pipeline.ports import Journal
from pointsman_gateway.shadow.aside import Told
from pointsman_gateway.shadow.drawing import drawn
from pointsman_gateway.shadow.pairs import Pair, side_of
from pointsman_gateway.shadow.running import Errand, Runner

SECONDS = 120.0
"""That a shadow may take."""


class Takes(Protocol):
    """What becomes of a pair."""

    def take(self, pair: Pair, receipt: Receipt, terms: ShadowConfig) -> None:
        """`receipt` is the shadow's. Never waits, never fails."""
        ...


class Shadowing:
    """Implements the pipeline's `Journal` around another one. What is not drawn costs one look into a dictionary."""

    def __init__(
        self,
        journal: Journal,
        runner: Runner,
        tasks: Callable[[], Mapping[str, ShadowConfig]],
        may: Callable[[Request, str, str], bool],
        takes: Takes,
    ) -> None:
        """`tasks`: the terms by task, of the configuration that serves. `may`: whether the request's caller may
        have the task answered by that path."""
        self._journal = journal
        self._runner = runner
        self._tasks = tasks
        self._may = may
        self._takes = takes

    def wants_answers(self, request: Request, decision: Decision) -> bool:
        return bool(self._drawn(decision)) or self._journal.wants_answers(request, decision)

    def note(self, request: Request, decision: Decision, receipt: Receipt, answers: tuple[Answered, ...] = ()) -> None:
        wanted = answers if answers and self._journal.wants_answers(request, decision) else ()
        self._journal.note(request, decision, receipt, wanted)
        if receipt.outcome != "ok" or receipt.cached or receipt.escalated_from:
            return
        path = self._drawn(receipt.decision)
        if path and request.operation == "chat" and self._may(request, receipt.decision.task, path):
            self._begin(request, receipt, answers[-1] if answers else None, path)

    def note_undecided(self, receipt: Undecided) -> None:
        self._journal.note_undecided(receipt)

    def _drawn(self, decision: Decision) -> str:
        return drawn(self._tasks().get(decision.task), decision)

    def _begin(self, request: Request, receipt: Receipt, answered: Answered | None, path: str) -> None:
        decision, day = receipt.decision, today()
        terms = self._tasks()[decision.task]

        def tell(told: Told) -> None:
            shadow = told.receipt
            if shadow is None or shadow.outcome != "ok":
                return
            pair = Pair(decision.id, day, decision.task, side_of(receipt, answered), side_of(shadow, told.answer))
            self._takes.take(pair, shadow, terms)

        self._runner.begin(Errand(_by(path, request), _labels(decision), path, terms), tell)


def _by(path: str, request: Request) -> Request:
    """The request as the shadow asks it: nobody's, nobody waits for it, and no answer out of the cache will do."""
    deadline = asyncio.get_running_loop().time() + SECONDS
    return replace(request, model=f"path:{path}", caller=ANYONE, deadline=deadline, cache="off", arrived=0.0)


def _labels(decision: Decision) -> Labels:
    return Labels(
        decision.task,
        decision.confidence,
        decision.probabilities,
        abstained=False,
        stage="shadow",
        vector=decision.vector,
        margin=decision.margin,
        familiarity=decision.familiarity,
    )
