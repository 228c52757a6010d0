"""Replay recorded decisions with a candidate configuration. All engines count as available."""

from bisect import bisect_left
from collections.abc import AsyncIterator
from dataclasses import replace

from pointsman_gateway.backends.engines import Engine, Engines
from pointsman_gateway.backends.stage import Call
from pointsman_gateway.config.load import Config
from pointsman_gateway.config.schema import EngineConfig
from pointsman_gateway.domain import AUTO, Chunks, Decision, Request, Vector
from pointsman_gateway.line import Line
from pointsman_gateway.metering.counting import Counting
from pointsman_gateway.prompts.strategies import Found
from pointsman_gateway.routing.evidence import Evidence
from pointsman_gateway.routing.policy import point
from pointsman_gateway.wiring.line import Learned, Surroundings, build_line
from pointsman_servicekit.errors import PointsmanError
from prometheus_client.registry import CollectorRegistry

from pointsman_lab.recorded import Recorded, Replayed
from pointsman_lab.replay_diff import ReplayDiff
from pointsman_lab.report import Progress
from pointsman_lab.request_log import History


class ReplayContext:
    """Stages built from the candidate configuration, for decisions only."""

    def __init__(self, config: Config, engines: Engines, line: Line) -> None:
        self._config = config
        self._engines = engines
        self._line = line
        self._pseudonymous_users = PseudonymousUsers()

    async def replay(self, recorded: Recorded) -> Replayed:
        """Decide a request again: from its text if it was stored, else from the recorded labels."""
        task = recorded.labels.task
        if recorded.request.model == AUTO and not recorded.has_text and not self._knows(recorded):
            return Replayed(recorded, None, obstacle=f"task '{task}' is gone, and the text was not kept")
        if recorded.adapter:
            self._hold(recorded.adapter)
        try:
            return self._replayed(recorded, await self._decide(recorded))
        except PointsmanError as error:
            return Replayed(recorded, None, failure=error.message)

    def _replayed(self, recorded: Recorded, decision: Decision) -> Replayed:
        task = self._config.tasks.tasks.get(decision.task)
        if task is None or recorded.request.model != AUTO:
            return Replayed(recorded, decision)
        weighed = task.policy.best_value is not None
        by_chance = weighed and bool(recorded.user_digest) and not recorded.request.user
        return Replayed(recorded, decision, by_chance=by_chance, weighed=weighed)

    def _knows(self, recorded: Recorded) -> bool:
        return recorded.labels.abstained or recorded.labels.task in self._config.tasks.tasks

    def _hold(self, adapter: str) -> None:
        """Treat every adapter as resident on every LoRA engine: requests may name adapters that no file lists."""
        for name, config in self._config.models.engines.items():
            engine = self._engines.get(name)
            if config.lora_server and adapter not in engine.resident:
                self._engines.put(replace(engine, resident=engine.resident | {adapter}))

    async def _decide(self, recorded: Recorded) -> Decision:
        request = recorded.request
        labels = await self._line.classification.label(request) if recorded.has_text else recorded.labels
        drawn = with_sampled_user(request, recorded.id, recorded.user_digest, self._pseudonymous_users)
        return self._line.router.decide(drawn, labels)


def build_replay_context(config: Config, learned: Learned, evidence: Evidence) -> ReplayContext:
    """Build the stages from a configuration folder. Raises ConfigError."""
    resident = frozenset(path.adapter for path in config.paths.paths.values() if path.adapter)
    engines = Engines([_up(name, engine, resident) for name, engine in config.models.engines.items()])
    around = Surroundings(_ForbiddenEngine(), _ForbiddenRetriever(), Counting(CollectorRegistry()), evidence)
    return ReplayContext(config, engines, build_line(config, learned, engines, around))


def _up(name: str, engine: EngineConfig, resident: frozenset[str]) -> Engine:
    return Engine(name, engine.model, ready=True, resident=resident if engine.lora_server else frozenset())


class _ForbiddenEngine:
    """An engine that must not be called: a replay generates nothing."""

    async def stream(self, call: Call) -> AsyncIterator[Chunks]:
        raise NotImplementedError
        yield


class _ForbiddenRetriever:
    """A retriever that must not be called: a replay searches nothing."""

    async def search(self, collection: str, query: str, vector: Vector | None, top_k: int, deadline: float) -> Found:
        raise NotImplementedError


COUNT = 1 << 16
"""Number of pseudonymous users. A split boundary lies between a user and its pseudonym about once in this many
requests."""


class PseudonymousUsers:
    """Pseudonymous users that replace users whose names were not stored. Creating them takes about 0.1 s."""

    def __init__(self) -> None:
        self._keys = sorted((point(key), key) for key in map(str, range(COUNT)))

    def of(self, user_digest: str) -> str:
        """Return a pseudonym that falls into the same part of any split as the user with this digest."""
        place = int(user_digest, 16) / 2 ** (4 * len(user_digest))
        return self._keys[min(bisect_left(self._keys, (place, "")), COUNT - 1)][1]


def with_sampled_user(
    request: Request, decision_id: str, user_digest: str, pseudonymous_users: PseudonymousUsers
) -> Request:
    """Return the request with a user that samples reproducibly: its own user, that user's pseudonym, or the decision id
    if it named none."""
    if request.user:
        return request
    return replace(request, user=pseudonymous_users.of(user_digest) if user_digest else decision_id)


async def replay(
    context: ReplayContext, history: History, seconds: float, examples: int, progress: Progress
) -> ReplayDiff:
    """Replay the decisions of the last `seconds`. Keep at most `examples` requests for each kind of change."""
    diff, total = ReplayDiff(examples), await history.count(seconds)
    async for recorded in history.decisions(seconds):
        diff.add(await context.replay(recorded))
        progress("replaying", diff.decisions, max(total, diff.decisions))
    progress("replaying", diff.decisions, diff.decisions)
    return diff
