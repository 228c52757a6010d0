"""Replays recorded decisions with another configuration, using the router that the gateway would build from it.

All engines count as available, so that only the configuration makes a difference.
"""

from bisect import bisect_left
from dataclasses import replace

from pointsman_gateway.bootstrap.loaded_models import LoadedModels
from pointsman_gateway.bootstrap.stages import Dependencies, build_stages
from pointsman_gateway.config.engine_config import EngineConfig
from pointsman_gateway.config.load import Config
from pointsman_gateway.domain import AUTO, Decision, Request, Vector
from pointsman_gateway.engines.engine_client import EngineRequest, Transfer
from pointsman_gateway.engines.engine_state import Engine
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.extensions import Found
from pointsman_gateway.extensions.policy import hash_to_unit_interval
from pointsman_gateway.metering.aggregate import MetricsAggregator
from pointsman_gateway.pipeline.pipeline import Stages
from pointsman_gateway.ports import ChunkSink
from pointsman_gateway.routing.path_state import Evidence
from pointsman_servicekit.errors import PointsmanError
from prometheus_client.registry import CollectorRegistry

from pointsman_lab.replay_diff import ReplayDiff, ReplayedDecision
from pointsman_lab.report import Progress
from pointsman_lab.request_log import RecordedDecision, RequestLog

PSEUDONYM_COUNT = 1 << 16
"""The number of pseudonyms that `Pseudonyms` makes.

With this number, a user and the user's pseudonym fall into different parts of a split about once in 65,536 requests.
"""


class ReplayContext:
    """The classifier and router of one configuration, which decide recorded requests again."""

    def __init__(self, config: Config, engines: Engines, line: Stages) -> None:
        self._config = config
        self._engines = engines
        self._line = line
        self._pseudonyms = Pseudonyms()

    async def replay(self, recorded: RecordedDecision) -> ReplayedDecision:
        """Decides a recorded request again; returns the recorded decision and the decision of this configuration.

        If the text was stored, it is classified again; if not, the recorded task is used. The recorded task is also
        used if it may depend on sketches (hashes of documents), which a replay does not have. If the decision fails,
        the result has no decision, and the error's message as `failure`.
        """
        task = recorded.labels.task
        if recorded.request.model == AUTO and not recorded.has_text and not self._has_task_of(recorded):
            reason = f"task '{task}' is not in this configuration, and the text was not stored"
            return ReplayedDecision(recorded, None, not_comparable=reason)
        if recorded.adapter:
            self._add_adapter(recorded.adapter)
        try:
            return self._compare(recorded, await self._decide(recorded))
        except PointsmanError as error:
            return ReplayedDecision(recorded, None, failure=error.message)

    def _compare(self, recorded: RecordedDecision, decision: Decision) -> ReplayedDecision:
        task = self._config.tasks.tasks.get(decision.task)
        if task is None or recorded.request.model != AUTO:
            return ReplayedDecision(recorded, decision)
        by_evidence = task.policy.implementation.uses_ratings
        redrawn = by_evidence and bool(recorded.user_digest) and not recorded.request.user
        return ReplayedDecision(recorded, decision, redrawn=redrawn, by_evidence=by_evidence)

    def _has_task_of(self, recorded: RecordedDecision) -> bool:
        return recorded.labels.abstained or recorded.labels.task in self._config.tasks.tasks

    def _add_adapter(self, adapter: str) -> None:
        """Marks an adapter as loaded on every LoRA engine, because requests may name adapters that no configuration
        lists.
        """
        for name, config in self._config.models.engines.items():
            engine = self._engines.get(name)
            if config.lora_server and adapter not in engine.resident:
                self._engines.update(replace(engine, resident=engine.resident | {adapter}))

    async def _decide(self, recorded: RecordedDecision) -> Decision:
        request = recorded.request
        is_kept = not recorded.has_text or (recorded.sketches and self._has_task_of(recorded))
        labels = recorded.labels if is_kept else await self._line.classification.label(request)
        key = recorded.random_key or recorded.id
        sampled = with_pseudonym(request, key, recorded.user_digest, self._pseudonyms)
        return self._line.router.decide(sampled, labels)


def build_context(config: Config, learned: LoadedModels, evidence: Evidence) -> ReplayContext:
    """Builds the classifier and router of `config`, which decide recorded requests again.

    `learned` has the models that classify requests, and `evidence` the ratings and costs of paths. All engines count as
    available. Raises ConfigError if the configuration is invalid.
    """
    resident = frozenset(path.adapter for path in config.paths.paths.values() if path.adapter)
    engines = Engines([_available(name, engine, resident) for name, engine in config.models.engines.items()])
    around = Dependencies(
        client=_NoEngine(), search=_NoRetriever(), counting=MetricsAggregator(CollectorRegistry()), evidence=evidence
    )
    return ReplayContext(config, engines, build_stages(config, learned, engines, around))


def _available(name: str, engine: EngineConfig, resident: frozenset[str]) -> Engine:
    return Engine(name, engine.model, ready=True, resident=resident if engine.lora_server else frozenset())


class _NoEngine:
    """Stands for an engine in a replay, which generates nothing."""

    def send(self, request: EngineRequest, sink: ChunkSink) -> Transfer:
        raise NotImplementedError


class _NoRetriever:
    """Stands for the retriever in a replay, which retrieves nothing."""

    async def search(self, collection: str, query: str, vector: Vector | None, top_k: int, deadline: float) -> Found:
        raise NotImplementedError


class Pseudonyms:
    """Finds made-up user names that traffic splits treat like the real users, of whom only digests are stored.

    A split hashes the user's name to a point between 0 and 1. The constructor hashes 65,536 names in about 0.1 s.
    """

    def __init__(self) -> None:
        self._names = sorted((hash_to_unit_interval(name), name) for name in map(str, range(PSEUDONYM_COUNT)))

    def for_digest(self, user_digest: str) -> str:
        """Returns a made-up name that is hashed to nearly the same point (0 to 1) as the user with `user_digest`
        (hexadecimal).

        It is the name with the next higher point; if there is none, the name with the highest point.
        """
        target = int(user_digest, 16) / 2 ** (4 * len(user_digest))
        return self._names[min(bisect_left(self._names, (target, "")), PSEUDONYM_COUNT - 1)][1]


def with_pseudonym(request: Request, random_key: str, user_digest: str, pseudonyms: Pseudonyms) -> Request:
    """Returns the request with a `user` for whom traffic splits choose the same path as the gateway did.

    The `user` is the first of these that is known: the user's own name, the pseudonym for `user_digest`, and
    `random_key` (the key of the conversation, or the decision's id).
    """
    if request.user:
        return request
    return replace(request, user=pseudonyms.for_digest(user_digest) if user_digest else random_key)


async def replay(
    context: ReplayContext, log: RequestLog, seconds: float, examples: int, progress: Progress
) -> ReplayDiff:
    """Decides the logged requests of the last `seconds` again with `context`, and returns how the decisions change.

    Keeps at most `examples` requests of each kind of change; `progress` is called after each request.
    """
    diff, total = ReplayDiff(examples), await log.count(seconds)
    async for recorded in log.decisions(seconds):
        diff.add(await context.replay(recorded))
        progress("replaying", diff.decisions, max(total, diff.decisions))
    progress("replaying", diff.decisions, diff.decisions)
    return diff
