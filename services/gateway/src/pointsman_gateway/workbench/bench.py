"""A candidate's line: what the gateway would build from the same folder, over engines that are all up."""

from dataclasses import replace

from pointsman_servicekit.errors import PointsmanError
from prometheus_client.registry import CollectorRegistry

from pointsman_gateway.backends.engines import Engine, Engines
from pointsman_gateway.backends.request import EngineRequest, Transfer
from pointsman_gateway.config.load import Config
from pointsman_gateway.config.schema import EngineConfig
from pointsman_gateway.domain import AUTO, Decision, Vector
from pointsman_gateway.line import Line
from pointsman_gateway.metering.counting import Counting
from pointsman_gateway.pipeline.ports import ChunkSink
from pointsman_gateway.prompts.strategies import Found
from pointsman_gateway.routing.evidence import Evidence
from pointsman_gateway.wiring.line import Learned, Surroundings, build_line
from pointsman_gateway.workbench.recorded import Recorded, Replayed
from pointsman_gateway.workbench.stand_ins import StandIns, as_drawn


class Bench:
    """Decides what was decided before."""

    def __init__(self, config: Config, engines: Engines, line: Line) -> None:
        self._config = config
        self._engines = engines
        self._line = line
        self._stand_ins = StandIns()

    async def replay(self, recorded: Recorded) -> Replayed:
        """Anew where there is a text, else from the recorded labels."""
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
        """No configuration names the adapters that requests may: wherever adapters can be, this one is."""
        for name, config in self._config.models.engines.items():
            engine = self._engines.get(name)
            if config.lora_server and adapter not in engine.resident:
                self._engines.put(replace(engine, resident=engine.resident | {adapter}))

    async def _decide(self, recorded: Recorded) -> Decision:
        request = recorded.request
        labels = await self._line.classification.label(request) if recorded.has_text else recorded.labels
        drawn = as_drawn(request, recorded.id, recorded.user_digest, self._stand_ins)
        return self._line.router.decide(drawn, labels)


def build_bench(config: Config, learned: Learned, evidence: Evidence) -> Bench:
    """Raises ConfigError."""
    resident = frozenset(path.adapter for path in config.paths.paths.values() if path.adapter)
    engines = Engines([_up(name, engine, resident) for name, engine in config.models.engines.items()])
    around = Surroundings(_NoEngine(), _NoPassages(), Counting(CollectorRegistry()), evidence)
    return Bench(config, engines, build_line(config, learned, engines, around))


def _up(name: str, engine: EngineConfig, resident: frozenset[str]) -> Engine:
    return Engine(name, engine.model, ready=True, resident=resident if engine.lora_server else frozenset())


class _NoEngine:
    """Nothing is generated on a bench."""

    def send(self, request: EngineRequest, sink: ChunkSink) -> Transfer:
        raise NotImplementedError


class _NoPassages:
    """Nothing is looked up on a bench."""

    async def search(self, collection: str, query: str, vector: Vector | None, top_k: int, deadline: float) -> Found:
        raise NotImplementedError
