"""The routes for decisions, feedback, models, tasks, the configuration and health."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from pointsman_servicekit.errors import InvalidArgument, NotFound, PermissionDenied
from pydantic import Field
from starlette.responses import Response

from pointsman_gateway.domain import Caller, Feedback, Path, PathScore
from pointsman_gateway.domain.path import Catalog
from pointsman_gateway.http.catalog import catalog_body
from pointsman_gateway.http.dependencies import HAS_RECEIPT, caller_of_request, deadline_of_request, dependencies_of
from pointsman_gateway.http.dialects.openai.chat import RouteBody
from pointsman_gateway.http.dialects.openai.models import OPENAI_MODELS
from pointsman_gateway.http.dialects.registry import dialect_of
from pointsman_gateway.http.fields import FailFastList, StrictBody
from pointsman_gateway.pipeline.pipeline import Routed

MAX_EVALUATED_ROWS = 1_000_000
"""Maximum number of evaluated rows per score in an evaluation, so that the sum of the rows' scores stays exact."""


async def route(body: RouteBody, request: Request) -> Response:
    """Returns which path the request would take, why, and at what price. No engine is called and nothing is charged."""
    pipeline = dependencies_of(request).pipeline
    decoded = body.to_request(deadline_of_request(request), caller_of_request(request))
    request.scope[HAS_RECEIPT] = True
    routed = await pipeline.decide(decoded, body.include_prompt)
    costs = pipeline.costs(decoded, routed.decision)
    return JSONResponse(_decision_body(routed, costs))


def _decision_body(routed: Routed, costs_usd: Mapping[str, float | None]) -> dict[str, Any]:
    decision, prompt = routed.decision, routed.prompt
    body: dict[str, Any] = {
        "id": decision.id,
        "task": decision.task,
        "confidence": decision.confidence,
        "path": decision.path.name,
        "kind": decision.path.kind.value,
        "reason": decision.reason,
        "stage": decision.stage,
        "margin": decision.margin,
        "in_distribution_score": decision.in_distribution_score,
        "notes": list(decision.notes),
        "considered": [{"path": c.path, "outcome": c.outcome, "reason": c.reason} for c in decision.considered],
        "probabilities": dict(decision.probabilities),
        "expected_cost_usd": decision.expected_cost_usd,
        "costs_usd": dict(costs_usd),
        "revision": decision.revision,
    }
    if routed.user_words:
        body["user_words"] = routed.user_words
    if prompt is not None:
        body["prompt"] = [{"role": m.role, "content": m.content, **m.extra} for m in prompt.messages]
    return body


class FeedbackBody(StrictBody):
    decision_id: str = Field(default="", description="the answer's x-pointsman-decision-id, or its id")
    id: str = Field(default="", description="names this feedback: sent twice, it counts once; empty: its content does")
    rating: float | None = Field(default=None, strict=True, description="0 (bad) to 1 (good)")
    correction: str = Field(default="", description="what was wrong, in words")
    right_task: str = Field(default="", description='the task that it should have been; "unknown": none')
    right_answer: str = Field(default="", description="what should have been answered")

    def to_feedback(self, caller: Caller) -> Feedback:
        return Feedback(**self.model_dump(), tenant=caller.tenant)


async def feedback(body: FeedbackBody, request: Request) -> Response:
    """Stores feedback on an answer. Status 202: it is in the local write-ahead log, and not in Redis yet."""
    store = dependencies_of(request).feedback
    stored = await store.take(body.to_feedback(caller_of_request(request)))
    content = {"stored": stored.where, "known_already": stored.known_already}
    return JSONResponse(content, status_code=202 if stored.where == "wal" else 200)


class PathScoreBody(StrictBody):
    task: str
    path: str
    fingerprint: str = Field(description="of the path when it was evaluated, as in /v1/tasks")
    model: str = Field(min_length=1, max_length=300, description="what answered: the base model or an adapter version")
    rows: int = Field(strict=True, ge=1, le=MAX_EVALUATED_ROWS, description="that were scored")
    score: float = Field(strict=True, ge=0, le=1, description="their mean score")


class EvaluationBody(StrictBody):
    id: str = Field(
        pattern="^[0-9a-f]{64}$", description="SHA-256 of the data set: sent again, its results are replaced"
    )
    results: FailFastList[PathScoreBody] = Field(min_length=1, max_length=1000)


async def evaluations(body: EvaluationBody, request: Request) -> Response:
    """Lets the scores of an evaluation count as ratings of its paths, for the policy `best_value`.

    A task's policy limits how many ratings they count as. Scores of a path are ignored, and reported as such, if its
    configuration has changed since the evaluation.
    """
    dependencies, caller = dependencies_of(request), caller_of_request(request)
    if not (caller.is_operator or caller.is_admin):
        problem = "only operators may send evaluations; `pointsman keys create --operator` makes a key that may"
        raise PermissionDenied(problem, code="not_operator")
    catalog = caller.scope.visible(dependencies.configuration.current.catalog)
    scores, ignored = [], []
    for result in body.results:
        path = _path_of(catalog, result)
        if path.fingerprint == result.fingerprint:
            scores.append(PathScore(result.task, path, result.model, result.rows, result.score))
        else:
            reason = f"path '{path.name}' is configured differently now; evaluate it again"
            ignored.append({"task": result.task, "path": path.name, "reason": reason})
    if scores:
        await dependencies.evaluations.add_evaluation(body.id, scores)
    return JSONResponse({"counted": len(scores), "ignored": ignored})


def _path_of(catalog: Catalog, result: PathScoreBody) -> Path:
    """Returns the path of a score; raises InvalidArgument if its task or its path is not in the catalog."""
    for kind, name, known in (("task", result.task, catalog.tasks), ("path", result.path, catalog.paths)):
        if name not in known:
            problem = f"unknown {kind} '{name[:64]}'; known: {', '.join(known)}"
            raise InvalidArgument(problem, code=f"unknown_{kind}", param=kind)
    return catalog.paths[result.path]


async def list_models(request: Request) -> dict[str, Any]:
    """Lists the values of `model` that the key may use, for conversations, embeddings and reranking.

    With the header `anthropic-version` the list has Anthropic's form, with pages, and only those for conversations.
    """
    form = dialect_of(request.scope).models or OPENAI_MODELS
    names = _model_names(request) if form.has_all else _conversation_names(request)
    return form.page(names, _created(request), request.query_params)


async def find_model(name: str, request: Request) -> dict[str, Any]:
    """Returns one model, by a name that may contain ':', '@' and '/'; 404 if the key may use no model of that name.

    The header `anthropic-version` selects Anthropic's form.
    """
    if name not in _model_names(request):
        raise NotFound(f"unknown model '{name[:200]}'; GET /v1/models lists them", code="unknown_model", param="model")
    form = dialect_of(request.scope).models or OPENAI_MODELS
    return form.model(name, _created(request))


def _model_names(request: Request) -> Sequence[str]:
    current, scope = dependencies_of(request).configuration.current, caller_of_request(request).scope
    return [*_conversation_names(request), *current.embeddings.names(scope), *current.rerankers.names(scope)]


def _conversation_names(request: Request) -> Sequence[str]:
    current, scope = dependencies_of(request).configuration.current, caller_of_request(request).scope
    return list(current.model_names(scope))


def _created(request: Request) -> int:
    """Returns when the configuration was loaded, in Unix seconds; the models' own dates are unknown."""
    return int(dependencies_of(request).configuration.status.loaded_unix)


async def list_tasks(request: Request) -> dict[str, Any]:
    """Lists the tasks, paths and prices in the key's scope; `pointsman eval` reads it."""
    snapshot = dependencies_of(request).configuration.current
    catalog = caller_of_request(request).scope.visible(snapshot.catalog)
    return catalog_body(catalog, snapshot.revision, snapshot.engines.versions_of, datetime.now(UTC).date())


async def configuration(request: Request) -> dict[str, Any]:
    """Returns the active configuration's id, when it was loaded, why the current files were rejected, and the state of
    each process.
    """
    dependencies = dependencies_of(request)
    return {**asdict(dependencies.configuration.status), "workers": await dependencies.states_of_workers()}


async def live() -> PlainTextResponse:
    """Reports that the process is running."""
    return PlainTextResponse("ok\n")


async def ready(
    request: Request,
    engines: Annotated[int, Query(ge=0, le=1, description="Ready engines that are needed: 1 or 0.")] = 1,
) -> PlainTextResponse:
    """Returns 200 if the gateway accepts requests and an engine is ready, with `engines=0` also without one; otherwise
    503.
    """
    dependencies = dependencies_of(request)
    if not dependencies.pipeline.admission.is_ready:
        return PlainTextResponse("shutting down\n", status_code=503, headers={"retry-after": "5"})
    if not engines or dependencies.configuration.current.engines.any_ready:
        return PlainTextResponse("ready\n")
    return PlainTextResponse("no engine is ready\n", status_code=503, headers={"retry-after": "5"})
