"""The stage: the prompt goes to an engine that can answer, to another one if that fails before its first token."""

from collections.abc import Callable

from pointsman_servicekit.errors import PointsmanError, Unavailable
from prometheus_client import CollectorRegistry

from pointsman_gateway.backends.attempt import Accounts, Asked, Asking, NoAccounts
from pointsman_gateway.backends.balancing import Candidates, beginning
from pointsman_gateway.backends.budget import RetryBudget
from pointsman_gateway.backends.call import Call, Client, Opened
from pointsman_gateway.backends.engines import Engines, Target
from pointsman_gateway.backends.failures import out_of_time
from pointsman_gateway.backends.hedging import Hedging
from pointsman_gateway.backends.metrics import EngineMetrics
from pointsman_gateway.backends.retrying import Retrying
from pointsman_gateway.config.schema import ResilienceConfig
from pointsman_gateway.domain import Decision, Prompt, Request
from pointsman_gateway.domain.value import value

__all__ = ["Backends", "Call", "Client", "Opened"]

DEFAULTS = ResilienceConfig()


@value
class Choice:
    """The engine to ask first."""

    target: Target
    others: Candidates
    """That may be asked after it, or beside it."""
    asked: Asked


class Backends:
    """Prompt in, chunks out."""

    def __init__(
        self,
        engines: Engines,
        client: Client,
        clock: Callable[[], float],
        resilience: ResilienceConfig = DEFAULTS,
        metrics: EngineMetrics | None = None,
        accounts: Accounts | None = None,
    ) -> None:
        """`clock` is the event loop's, which deadlines are on; without `metrics` nobody sees what is counted."""
        counted = metrics or EngineMetrics(CollectorRegistry())
        self.clock = clock
        self.budget = RetryBudget(resilience.retries.share, resilience.retries.floor)
        self.asking = Asking(client, counted, clock, accounts or NoAccounts())
        self.hedges = resilience.hedge_after is not None
        """Whether a second engine may be asked for a first token."""
        hedging = Hedging(self.asking, resilience.hedge_after, self.budget, counted)
        self._retrying = Retrying(hedging, resilience.retries, self.budget, counted, clock)
        self._engines = engines
        self._bound = resilience.load_bound

    async def open(self, request: Request, decision: Decision, prompt: Prompt) -> Opened:
        """Waits for the first chunk. Raises Unavailable once every engine has failed, and what the engines refuse."""
        choice = self.choice(request, decision, prompt)
        return await self._retrying.open(choice.target, choice.others, choice.asked)

    async def go_on(self, choice: Choice, error: PointsmanError) -> Opened:
        """What is done after an engine has failed with `error` before its first token. Raises PointsmanError."""
        if not isinstance(error, Unavailable):
            raise error
        return await self._retrying.again(choice.target, choice.others, choice.asked, error)

    def choice(self, request: Request, decision: Decision, prompt: Prompt) -> Choice:
        """Raises Unavailable, DeadlineExceeded."""
        path = decision.path
        targets = self._engines.targets(path)
        if self.clock() >= request.deadline:
            raise out_of_time()
        key = beginning(prompt.messages) if len(targets) > 1 else 0
        candidates = Candidates(targets, key, self._bound)
        first = candidates.take()
        assert first is not None  # targets() are never none, and nothing has happened since
        sampling = request.sampling.with_defaults(path.sampling)
        asked = Asked(prompt.messages, sampling, request.deadline, operation=request.operation, path=path.name)
        return Choice(first, candidates, asked)
