"""Chooses the engine for a prompt, and another one if that fails before its first token."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry

from pointsman_gateway.config.schema import ResilienceConfig
from pointsman_gateway.domain import Decision, Prompt, Request
from pointsman_gateway.engines.balancing import Candidates, hash_prefix
from pointsman_gateway.engines.budget import RetryBudget
from pointsman_gateway.engines.call import Accounts, EngineCaller, NoAccounts
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.engines.failures import out_of_time
from pointsman_gateway.engines.hedging import Hedging
from pointsman_gateway.engines.metrics import EngineMetrics
from pointsman_gateway.engines.request import CompletionRequest, EngineClient
from pointsman_gateway.engines.retrying import Retrying
from pointsman_gateway.pipeline.ports import OpenAnswer

DEFAULTS = ResilienceConfig()


class EngineBackend:
    """Implements `Backend` with the engines that can answer."""

    def __init__(
        self,
        engines: Engines,
        client: EngineClient,
        clock: Callable[[], float],
        resilience: ResilienceConfig = DEFAULTS,
        metrics: EngineMetrics | None = None,
        accounts: Accounts | None = None,
    ) -> None:
        """`clock` is the event loop's, by which deadlines are measured."""
        counted = metrics or EngineMetrics(CollectorRegistry())
        self._clock = clock
        budget = RetryBudget(resilience.retries.budget_ratio, resilience.retries.min_retries)
        caller = EngineCaller(client, counted, clock, accounts or NoAccounts())
        hedging = Hedging(caller, resilience.hedge_after_seconds, budget, counted)
        self._retrying = Retrying(hedging, resilience.retries, budget, counted, clock)
        self._engines = engines
        self._bound = resilience.load_bound

    async def open(self, request: Request, decision: Decision, prompt: Prompt) -> OpenAnswer:
        """Raises Unavailable once every engine has failed, DeadlineExceeded, and what the engines refuse."""
        path = decision.path
        targets = self._engines.targets(path)
        if self._clock() >= request.deadline:
            raise out_of_time()
        key = hash_prefix(prompt.messages) if len(targets) > 1 else 0
        candidates = Candidates(targets, key, self._bound)
        first = candidates.take()
        assert first is not None  # targets() are never none, and nothing has happened since
        sampling = request.sampling.with_defaults(path.sampling)
        wanted = CompletionRequest(
            prompt.messages,
            sampling,
            request.deadline,
            operation=request.operation,
            path=path.name,
            as_a_whole=request.as_a_whole,
        )
        return await self._retrying.open(first, candidates, wanted)
