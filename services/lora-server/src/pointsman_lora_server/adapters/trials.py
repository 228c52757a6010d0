"""Trials of adapter versions after their load: the first answers are requested in groups, and the base model is probed
to see whether it still answers as before.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from pointsman_servicekit.errors import InvalidArgument, NotFound, PointsmanError, Unavailable

from pointsman_lora_server.domain import AdapterVersion
from pointsman_lora_server.engine.completion import EngineCorrupted, Probe
from pointsman_lora_server.metrics import LoraServerMetrics

MAX_GROUP = 16
"""The largest number of versions whose first answers are requested at once; one probe of the base model follows for all
of them."""


def _new_future() -> "asyncio.Future[None]":
    return asyncio.get_running_loop().create_future()


@dataclass(frozen=True, slots=True)
class Trial:
    """An adapter version that waits for its trial, and the trial's future result.

    In a trial, the version gives its first answer, and the base model must still answer as before.
    """

    version: AdapterVersion
    life: int
    """The number of the engine's start (`EngineState.life`) after which the engine read the version's weights."""
    result: "asyncio.Future[None]" = field(default_factory=_new_future)

    @property
    def name(self) -> str:
        return self.version.version

    def fail(self, error: PointsmanError) -> None:
        if not self.result.done():
            self.result.set_exception(error)


class Trials:
    """Runs trials of adapter versions in groups: versions that arrive while a trial is running form the next group.

    A trial requests each version's first answer. It then probes whether the base model still answers as before, if a
    version of the group cannot answer or has not passed a trial in this process yet. If anything is wrong in a group,
    each of its versions is tried again alone: at once or, if the engine has to be restarted, at its next load. After
    each start of the engine, a version must pass one trial.
    """

    def __init__(
        self,
        warm_up: Callable[[AdapterVersion], Awaitable[None]],
        probe: Probe,
        restart_engine: Callable[[str], None],
        metrics: LoraServerMetrics,
    ) -> None:
        """`warm_up` is a function that requests a version's first answer. It raises InvalidArgument if the version
        cannot answer or has no effect, NotFound if the version was evicted, and Unavailable if the engine does not
        answer.

        `restart_engine` is called with the reason, as a text, if the base model's answers have changed.
        """
        self.turn = asyncio.Lock()
        """A lock that the caller must hold while it calls `run`."""
        self._warm_up = warm_up
        self._probe = probe
        self._restart_engine = restart_engine
        self._metrics = metrics
        self._waiting: list[Trial] = []
        self._alone: set[str] = set()  # were in a group with which something was wrong
        self._harmless: set[str] = set()
        self._answered_in: dict[str, int] = {}  # the last life of the engine in which the version has answered

    def is_needed(self, version: str, life: int) -> bool:
        """Returns whether the version has not yet passed a trial after the engine's start number `life`
        (`EngineState.life`).
        """
        return version not in self._harmless or self._answered_in.get(version) != life

    def enqueue(self, version: AdapterVersion, life: int) -> Trial:
        trial = Trial(version, life)
        self._waiting.append(trial)
        return trial

    def withdraw(self, trial: Trial) -> None:
        """Removes and cancels a trial whose result the caller no longer needs; has no effect if the trial has already
        been run.
        """
        if trial in self._waiting:
            self._waiting.remove(trial)
        trial.result.cancel()

    async def run(self, trial: Trial) -> None:
        """Runs groups of waiting trials until `trial`, which `enqueue` returned, is done. The caller must hold the lock
        `turn`.

        Raises InvalidArgument if the version cannot answer or corrupts the engine. Raises Unavailable if the engine
        does not answer, or is restarted before it is known which version of the group is at fault; the version may be
        loaded again then.
        """
        while not trial.result.done():
            group = self._next_group()
            try:
                await self._run(group)
            except BaseException as error:
                unavailable = error if isinstance(error, Unavailable) else _interrupted()
                for each in group:
                    each.fail(unavailable)
                if not isinstance(error, PointsmanError):
                    raise
        trial.result.result()

    async def check_engine(self, cause: str) -> bool:
        """Returns whether the base model still answers as before; if not, restarts the engine by calling
        `restart_engine`.

        `cause` names the versions that were loaded before, for the text of the reason. Raises Unavailable if the engine
        does not answer.
        """
        try:
            with self._metrics.time_load_step("probe"):
                await self._probe.check()
        except EngineCorrupted as error:
            self._restart_engine(f"corrupted after {cause} was loaded: {error.message}")
            return False
        return True

    def _next_group(self) -> list[Trial]:
        first = self._waiting[0]
        if first.name in self._alone:
            group = [first]
        else:
            group = [trial for trial in self._waiting if trial.name not in self._alone][:MAX_GROUP]
        self._waiting = [trial for trial in self._waiting if trial not in group]
        return group

    async def _run(self, group: Sequence[Trial]) -> None:
        with self._metrics.time_load_step("trial"):
            answers = await asyncio.gather(*(self._warm_up(trial.version) for trial in group), return_exceptions=True)
        errors = [error for error in answers if isinstance(error, BaseException)]
        unexpected = next((error for error in errors if not isinstance(error, InvalidArgument | NotFound)), None)
        if unexpected is not None:
            raise unexpected
        rejected = any(isinstance(error, InvalidArgument) for error in errors)
        needs_probe = rejected or any(trial.name not in self._harmless for trial in group)
        is_healthy = not needs_probe or await self.check_engine(", ".join(trial.name for trial in group))
        if len(group) > 1 and not is_healthy:
            self._alone.update(trial.name for trial in group)
            raise _interrupted()
        if len(group) > 1 and rejected:
            for trial in group:
                await self._run([trial])
            return
        for trial, answer in zip(group, answers, strict=True):
            self._conclude(trial, answer, is_healthy)

    def _conclude(self, trial: Trial, answer: BaseException | None, is_healthy: bool) -> None:
        if isinstance(answer, InvalidArgument):
            trial.fail(answer)
        elif isinstance(answer, NotFound):
            trial.fail(_interrupted())
        elif not is_healthy:
            trial.fail(
                InvalidArgument(
                    f"after {trial.name} was loaded the base model no longer answers as before: its weights corrupt "
                    "the engine, which is restarted without it",
                    code="poisons_engine",
                )
            )
        else:
            self._alone.discard(trial.name)
            self._harmless.add(trial.name)
            self._answered_in[trial.name] = trial.life
            if not trial.result.done():
                trial.result.set_result(None)


def _interrupted() -> Unavailable:
    return Unavailable("the engine was restarted during the load", code="engine_not_ready", retry_after=5)
