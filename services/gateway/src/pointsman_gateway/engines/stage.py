"""The backend that answers requests by calling an engine, and another engine if the first one fails."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from typing import Any

from pointsman_servicekit.eager import in_task
from pointsman_servicekit.errors import Unavailable
from prometheus_client import CollectorRegistry

from pointsman_gateway.config.models_file import ResilienceConfig
from pointsman_gateway.domain import Decision, Prompt, Request, Sampling
from pointsman_gateway.engines.answer_limits import default_max_tokens
from pointsman_gateway.engines.balancing import (
    NO_KEY,
    OrderedQueue,
    Rings,
    SpillTargets,
    TargetQueue,
    hash_prompt,
)
from pointsman_gateway.engines.call import BusyTimeTracker, EngineCaller, NullBusyTimeTracker
from pointsman_gateway.engines.endpoint_picker import EndpointPickers
from pointsman_gateway.engines.engine_client import (
    MAX_COLLECTED_BYTES,
    CompletionRequest,
    EngineClient,
    NotServed,
    out_of_time,
    retryable,
)
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.engines.failover import Hedging, RetryBudget, Retrying
from pointsman_gateway.engines.lookups import Target, shared_settings
from pointsman_gateway.engines.metrics import EngineMetrics
from pointsman_gateway.engines.pick import Pick, reporting
from pointsman_gateway.ports import AnswerStream, CallRecord

DEFAULTS = ResilienceConfig()


class EngineBackend:
    """Gets answers from engines, and from another engine if one fails before its first token; implements `Backend`."""

    def __init__(
        self,
        engines: Engines,
        client: EngineClient,
        clock: Callable[[], float],
        resilience: ResilienceConfig = DEFAULTS,
        metrics: EngineMetrics | None = None,
        busy_times: BusyTimeTracker | None = None,
        *,
        pickers: EndpointPickers | None = None,
    ) -> None:
        """Takes the event loop's `clock`, by which deadlines are measured; `busy_times` measures the use of engines
        that are paid by the hour. `pickers` are the connections to endpoint pickers.
        """
        metrics = metrics or EngineMetrics(CollectorRegistry())
        self._clock = clock
        budget = RetryBudget(resilience.retries.budget_ratio, resilience.retries.min_retries)
        caller = EngineCaller(client, metrics, clock, busy_times or NullBusyTimeTracker())
        hedging = Hedging(caller, resilience.hedge_after_seconds, budget, metrics)
        self._retrying = Retrying(hedging, resilience.retries, budget, metrics, clock)
        self._engines = engines
        self._pickers = pickers or EndpointPickers(metrics)
        self._bound = resilience.load_bound
        self._spilled, self._rings = SpillTargets(), Rings()

    async def call(self, request: Request, decision: Decision, prompt: Prompt, record: CallRecord) -> AnswerStream:
        """Calls an engine that serves the decision's path, and others if it fails or is slow, as far as the
        configured retries and hedging allow. Returns the answer once its first chunk has arrived.

        If the engine chosen first belongs to a group with an endpoint picker, that external service chooses among the
        group's engines; engines of other groups are called after these.

        Raises Unavailable if no engine may be called now (see `Engines.targets`) or all called ones have failed:
        NotResident if none has loaded the adapter, NotServed if they answered 404 and no other engine of the model
        can answer later. Raises ResourceExhausted if the picker rejects the request, DeadlineExceeded if the
        request's deadline passes, and InvalidArgument if an engine or its settings reject the request.
        """
        path = decision.path
        targets = self._engines.targets(path)
        if self._clock() >= request.deadline:
            raise out_of_time()
        key = hash_prompt(prompt.messages, request.messages) if len(targets) > 1 else NO_KEY
        queue = TargetQueue(targets, key, self._bound, self._spilled, self._rings.of(targets))
        first = queue.take()
        assert first is not None  # `targets` are available, and nothing has been awaited since
        sampling = request.sampling
        if sampling.extra:
            sampling = _select_fields(request, targets)
        is_collected = request.as_a_whole or request.is_collected or decision.is_buffered
        sampling = sampling.with_defaults(path.sampling)
        limit = default_max_tokens(path, request, sampling, prompt)
        completion = CompletionRequest(
            prompt.messages,
            sampling if limit is None else replace(sampling, max_tokens=limit),
            request.deadline,
            operation=request.operation,
            path=path.name,
            as_a_whole=request.as_a_whole and not request.keeps_pieces,
            caller=request.caller,
            max_bytes=MAX_COLLECTED_BYTES if is_collected else inf,
            record=record,
        )
        try:
            if first.settings.picker is None:
                answer = await self._retrying.call(first, queue, completion)
            else:
                answer = await self._call_picked(first, queue, targets, completion)
            return answer if limit is None else replace(answer, default_max_tokens=limit)
        except NotServed as error:
            answering = sum(target.state.is_available for target in targets)
            if answering < self._engines.count(path.model):  # the others may answer later
                raise retryable(error) from error
            raise

    async def _call_picked(
        self, first: Target, queue: TargetQueue, targets: Sequence[Target], completion: CompletionRequest
    ) -> AnswerStream:
        """Calls the engines that the picker of `first` chooses; `first` and `queue`, if it chooses none and its
        failure mode is open.
        """
        config = first.settings.picker
        assert config is not None
        group = [target for target in targets if target.settings.picker == config]
        offered = [target for target in group if target is first or target.state.is_available]
        await in_task()  # the picker's time limit needs a task
        pick = await self._pickers.pick(config, offered, completion, self._clock)
        if pick is None:
            return await self._retrying.call(first, queue, completion)
        try:
            return await self._call_in_order(pick, [target for target in targets if target not in group], completion)
        except BaseException:
            pick.end()
            raise

    async def _call_in_order(self, pick: Pick, rest: Sequence[Target], completion: CompletionRequest) -> AnswerStream:
        queue = OrderedQueue([*pick.targets, *rest])
        first = queue.take()
        if first is None:
            raise Unavailable(
                "the engines that the endpoint picker chose became unavailable",
                code="picker_no_endpoint",
                retry_after=1,
            )
        answer = await self._retrying.call(first, queue, completion)
        return reporting(answer, pick)


def _select_fields(request: Request, targets: Sequence[Target]) -> Sampling:
    """Returns the parameters with only those fields that all available engines of `targets` accept.

    Raises InvalidArgument if one of these engines takes no field of that name (`RequestFields.select`).
    """
    sampling = request.sampling
    fields, own = sampling.extra, dict[str, Any]()
    if request.operation == "completion" and "prompt" in fields:  # several prompts, which are not an option
        own = {"prompt": fields["prompt"]}
        fields = {name: value for name, value in fields.items() if name != "prompt"}
    for settings in shared_settings(targets):
        fields = settings.accepted_fields.select(fields)
    return replace(sampling, extra={**fields, **own})
