"""Schemathesis checks every route against our OpenAPI description: no route fails, and answers conform."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.gateway.doubles.engine import ScriptedEngine, answer, text_answer
from tests.gateway.doubles.gateway import Gateway, Neighbours
from tests.gateway.doubles.tenancy import issue
from tests.gateway.doubles.valkey import Valkey

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]
EXAMPLES = 25
"""Number of valid and of invalid examples per operation."""
ADMIN = "/admin/v1/"
MODELS = st.sampled_from(["auto", "tiny", "path:handbook", "triage@prod"])
OTHER_MODELS = {"/v1/embeddings": "minilm", "/v1/rerank": "own", "/v2/rerank": "own"}


def _operations(url: str) -> Iterator[schemathesis.APIOperation[Any, Any, Any, Any]]:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", verify=False)
    for result in schema.get_all_operations():
        assert isinstance(result, Ok)
        yield result.ok()


def _modes(operation: schemathesis.APIOperation[Any, Any, Any, Any]) -> list[GenerationMode]:
    """Returns the kinds of examples for an operation: no invalid ones if it has neither parameters nor a body."""
    return list(GenerationMode) if operation.body else [GenerationMode.POSITIVE]


def _try(operation: schemathesis.APIOperation[Any, Any, Any, Any], mode: GenerationMode, key: str = "") -> int:
    """Sends the generated requests, which are the same each time. Returns how many were answered without a client
    error.
    """
    answered, headers = 0, {"authorization": f"Bearer {key}"} if key else {}

    @seed(7)
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), model=MODELS)
    def ask(case: schemathesis.Case[Any], model: str) -> None:
        nonlocal answered
        _name(case, model)
        got = case.call_and_validate(checks=CHECKS, headers=headers, verify=False, timeout=20)
        answered += got.status_code in (200, 201)

    ask()
    return answered


def _name(case: Any, model: str) -> None:
    """Replaces generated model names by existing ones, which the generator would never guess."""
    is_admin = case.operation.path.startswith(ADMIN)
    if not is_admin and isinstance(case.body, dict) and isinstance(case.body.get("model", ""), str):
        case.body["model"] = OTHER_MODELS.get(case.operation.path, model)
    if case.path_parameters and len(model) > 4:  # the others use unknown names
        known = "ops" if is_admin else model
        case.path_parameters = dict.fromkeys(case.path_parameters, known)


@pytest.fixture
def neighbours(neighbours: Neighbours) -> Neighbours:
    neighbours.config.models["embeddings"] = {"minilm": {"local": True, "usd_per_million_tokens": 0.5}}
    neighbours.config.models["rerankers"] = {"own": {"retriever": True}}
    return neighbours


async def test_every_route_conforms_to_the_openapi_description(gateway: Gateway, engine: ScriptedEngine) -> None:
    engine.script = lambda body: text_answer("a", "b") if "prompt" in body else answer("a", "b")
    tried = {}
    for operation in await asyncio.to_thread(lambda: list(_operations(gateway.url))):
        if not operation.path.startswith(ADMIN):
            tried[f"{operation.method.upper()} {operation.path}"] = sum(
                [await asyncio.to_thread(_try, operation, mode) for mode in _modes(operation)]
            )
    assert set(tried) == {
        "POST /v1/chat/completions", "POST /v1/completions", "POST /v1/responses", "POST /v1/embeddings",
        "POST /v1/messages", "POST /v1/messages/count_tokens", "POST /v1/rerank", "POST /v2/rerank",
        "GET /v1/models", "GET /v1/models/{name}", "POST /v1/route", "POST /v1/feedback", "GET /v1/tasks",
        "POST /v1/evaluations",        "GET /v1/configuration", "GET /healthz", "GET /readyz", "GET /metrics",
    }  # fmt: skip
    # This gateway has no request log, and so accepts no feedback and no evaluation.
    assert [route for route, answered in tried.items() if not answered] == [
        "POST /v1/feedback",
        "POST /v1/evaluations",
    ]


async def test_the_admin_api_conforms_to_the_openapi_description(neighbours: Neighbours, valkey: Valkey) -> None:
    neighbours.settings |= {"auth": "on", "redis_url": valkey.url}
    await neighbours.ready()
    admin = await issue(valkey.url, tenant="ops", admin=True)
    async with neighbours.gateway() as gateway:
        tried = {}
        for operation in await asyncio.to_thread(lambda: list(_operations(gateway.url))):
            if operation.path.startswith(ADMIN):
                tried[f"{operation.method.upper()} {operation.path}"] = sum(
                    [
                        await asyncio.to_thread(_try, operation, mode, admin.credential.text)
                        for mode in _modes(operation)
                    ]
                )
    assert len(tried) == 12
    # No generated id is that of a key.
    assert {route for route, answered in tried.items() if not answered} == {
        f"{method} /admin/v1/keys/{{key}}" for method in ("GET", "PATCH", "DELETE")
    }
