"""`Pipeline`, through which every server passes its requests, and the stages and objects of one configuration."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from pointsman_servicekit.errors import PointsmanError
from pointsman_servicekit.logs import decision_id

from pointsman_gateway import domain
from pointsman_gateway.conversations.stage import Conversations
from pointsman_gateway.domain import Caller, Decision, Operation, Prompt, Request, UndecidedReceipt
from pointsman_gateway.domain.outcome import CANCELLED
from pointsman_gateway.domain.path import Catalog
from pointsman_gateway.domain.request import UNRESTRICTED, Scope
from pointsman_gateway.domain.value import CHARACTERS_PER_TOKEN
from pointsman_gateway.embeddings.stage import Embeddings
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.engines.token_counter import TokenCounter
from pointsman_gateway.metering.meter import Meter, Metering
from pointsman_gateway.metering.token_estimates import estimate_tokens
from pointsman_gateway.model_calls.call import AnswerT, Called, ModelCall, RequestT
from pointsman_gateway.pipeline.active_runs import ActiveRuns
from pointsman_gateway.pipeline.admission import Admission
from pointsman_gateway.pipeline.metered import MeteredBlock
from pointsman_gateway.pipeline.run import RequestRun, with_known_model
from pointsman_gateway.pipeline.sinks import EventQueue
from pointsman_gateway.ports import AnswerSink, Backend, Classifier, PromptBuilder, RequestLog, Tenancy
from pointsman_gateway.reranking.stage import Rerankers
from pointsman_gateway.routing.router import Router
from pointsman_gateway.validation.stage import Validation


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages for requests, built from one revision of the configuration; a request keeps them to its end."""

    revision: str
    """The configuration's revision, a digest of its files' content."""
    resolve_model: Callable[[str], str]
    """Returns the model's name to use for a request's `model`: another one if that is an alias or unknown."""
    classification: Classifier
    conversations: Conversations
    router: Router
    prompts: PromptBuilder
    backend: Backend
    validation: Validation
    metering: Metering
    token_counter: TokenCounter


@dataclass(frozen=True, slots=True)
class Routed:
    """The routing decision for a request that no engine has answered, and the prompt that an engine would get."""

    decision: Decision
    prompt: Prompt | None
    """The prompt for the decision's path; None if the caller of `Pipeline.decide` did not ask for the prompt."""
    user_words: str
    """The part of the user's last message that was classified; empty if the whole message was, or nothing."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    admission: Admission
    tenancy: Tenancy
    current: Callable[[], Stages]
    request_log: RequestLog
    active_runs: ActiveRuns = field(default_factory=ActiveRuns)

    def run(self, request: Request, sink: AnswerSink) -> RequestRun:
        """Returns the run that will send the answer of `request` to `sink`; call its `start` to begin.

        Must be called in the request's context, from which the run takes the request's id.
        """
        return RequestRun(self, request, sink)

    def answer(self, request: Request) -> EventQueue:
        """Starts to answer the request, and returns the events to iterate over: Started, Chunks any number of times,
        Finished.

        The iteration raises the PointsmanError with which the request fails. `aclose` of the returned object ends the
        request early, and stops the engine.
        """
        events = EventQueue()
        events.run = run = self.run(request, events)
        run.start()
        return events

    async def decide(self, request: Request, with_prompt: bool = False) -> Routed:
        """Returns the routing decision that the request would get, and its prompt if `with_prompt` is set; calls no
        engine.

        The request is admitted and metered. Raises the errors of `MeteredBlock.admitted`, `Router.decide` and the
        guardrails (`GuardedClassification.label`); with a prompt also those of `PromptBuilder.build`.
        """
        stages = self.current()
        request = with_known_model(request, stages.resolve_model)
        meter = stages.metering.start(replace(request, operation="route"))
        with MeteredBlock(self, request, meter.finish_route) as metered:
            async with metered.admitted(estimated_tokens=0):
                meter.mark_admitted()
                labels = await stages.classification.label(request)
                decision = stages.router.decide(request, labels, await stages.conversations.recall(request, labels))
                meter.set_decision(decision)
                decision_id.set(decision.id)
                prompt = await _prompt(stages, meter, request, decision) if with_prompt else None
        return Routed(decision, prompt, labels.user_words)

    async def call_model(self, call: ModelCall[RequestT, AnswerT]) -> Called[AnswerT]:
        """Calls an embedding model or a reranker for a request, which is admitted, metered, and charged to the caller.

        Returns the answer with its cost in dollars and the headers of the caller's limits. Raises PermissionDenied if
        the caller may not use the model, ResourceExhausted if a limit or budget is exceeded, and the errors of
        `MeteredBlock.admitted` and `ModelCall.compute`.
        """
        with MeteredBlock(self, call.request, call.finish) as metered:
            call.check_scope()
            async with metered.admitted(call.estimated_tokens) as reservation:
                call.mark_admitted()
                await reservation.afford(call.estimated_usd)
                answer = await call.compute()
        return Called(answer, call.usd, reservation.headers)

    async def count_tokens(self, request: Request, routed: Routed) -> tuple[int, bool]:
        """Returns (number of tokens in the prompt of `routed`, whether an engine counted them); False stands for an
        estimate.

        `routed` is what `decide` returned for `request`, with the prompt. Raises DeadlineExceeded after the request's
        deadline, and Unavailable when the gateway stops.
        """
        assert routed.prompt is not None  # the decision was made with it
        messages, fields = routed.prompt.messages, request.sampling.extra
        counter, model = self.current().token_counter, routed.decision.path.model
        with self.active_runs.running(request.deadline):
            count = await counter.count(model, messages, fields, request.deadline)
        if count is not None:
            return count, True
        others = [fields.get("tools") or "", *[message.extra or "" for message in messages]]
        return 1 + estimate_tokens(messages) + len(json.dumps(others)) // CHARACTERS_PER_TOKEN, False

    def costs(self, request: Request, decision: Decision) -> Mapping[str, float | None]:
        """Returns the expected cost of the request on each path that the decision considered: path name -> dollars.

        The value is None if the cost is unknown.
        """
        return self.current().router.costs(request, decision)

    def record_rejection(
        self, operation: Operation, error: PointsmanError | None, arrived: float = 0.0, *, caller: Caller
    ) -> None:
        """Makes and logs the receipt of a request that a server rejected before it reached the pipeline.

        `error` is what the client got, None if the client disconnected. `arrived` is the time of arrival in seconds of
        `perf_counter`; 0 stands for the present. `caller` is `ANONYMOUS` if the key was not checked yet.
        """
        meter = self.current().metering.start(Request("", (), caller=caller, arrived_at=arrived, operation=operation))
        receipt = meter.finish(error.code if error else CANCELLED, error)
        assert isinstance(receipt, UndecidedReceipt)  # nothing has decided
        self.request_log.note_undecided(receipt)


async def _prompt(stages: Stages, meter: Meter, request: Request, decision: Decision) -> Prompt:
    path_attempt = meter.start_attempt(decision.path)
    prompt = await stages.prompts.build(request, decision)
    path_attempt.set_prompt(prompt)
    path_attempt.ended = path_attempt.sent  # no engine is called
    return prompt


class ModelNames(Protocol):
    def names(self) -> Sequence[str]:
        """Returns all values that a request's `model` may have, such as "auto", "path:NAME" and the names of models."""
        ...

    def path_of(self, model: str) -> domain.Path | None:
        """Returns the path that answers a request for this base model or adapter; None if the name is unknown."""
        ...


@dataclass(frozen=True, slots=True)
class ConfigSnapshot:
    """All objects that are built from one revision of the configuration.

    A request uses the snapshot that is active when it starts, also after a reload.
    """

    stages: Stages
    engines: Engines
    models: ModelNames
    embeddings: Embeddings
    rerankers: Rerankers
    paths: Sequence[domain.Path]
    """The paths in the order of the configuration."""
    catalog: Catalog
    examples: Mapping[str, str]
    """An example request of each task, for the console."""

    @property
    def revision(self) -> str:
        return self.stages.revision

    def model_names(self, scope: Scope) -> Sequence[str]:
        """Returns the values that a request's `model` may have if its API key has this scope."""
        names = self.models.names()
        if scope is UNRESTRICTED:
            return names
        paths = scope.visible(self.catalog).paths
        return [name for name in names if self._is_visible(name, scope, paths)]

    def _is_visible(self, name: str, scope: Scope, paths: Collection[str]) -> bool:
        name = self.stages.resolve_model(name)
        if name.startswith(domain.PATH_PREFIX):
            return name.removeprefix(domain.PATH_PREFIX) in paths
        path = self.models.path_of(name)
        return name == domain.AUTO or (path is not None and scope.tasks is None and scope.allows(path))
