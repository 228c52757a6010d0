"""The JSON API of the console's page, `/console/api`, which is not stable between versions; adds all routes of the
console.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import FastAPI, Query, Request
from pydantic import Field, field_validator
from starlette.responses import Response

from pointsman_gateway.console.search import DecisionQuery, Ending
from pointsman_gateway.console.stage import Console
from pointsman_gateway.domain import Caller
from pointsman_gateway.domain.path import AliasMove
from pointsman_gateway.http.asgi_app import LOGIN_PATH
from pointsman_gateway.http.console.login import log_in, login_request
from pointsman_gateway.http.console.page import Assets, asset, page, without_slash
from pointsman_gateway.http.console.site_check import check_site
from pointsman_gateway.http.dependencies import caller_of_request, dependencies_of
from pointsman_gateway.http.fields import StrictBody
from pointsman_gateway.http.json_answer import json_answer
from pointsman_gateway.request_log.spending import DAYS_KEPT

MAX_PAGE_SIZE = 200

PAGE_CURSOR = re.compile(r"(\d{1,20}-\d{1,20}|records:\d{1,14}:[!-~]{0,200})?", re.ASCII)
"""Matches a cursor of the list of decisions: an empty text for the first page, the id of an entry in the request log's
stream, or the position of a decision in the exported records."""

Searched = Annotated[str, Field(max_length=500)]

Handler = Callable[..., Awaitable[Response]]


class _MoveBody(StrictBody):
    model: str = Field(min_length=1, description="the base model")
    alias: str = Field(min_length=1)
    expected_version: str = Field(default="", description="where it must point now; empty: wherever it points")


class AliasBody(_MoveBody):
    version: str = Field(min_length=1)
    force: bool = Field(default=False, description="even where the evaluation says that prompting is as good")

    def to_move(self, author: str) -> AliasMove:
        return AliasMove(self.alias, self.version, self.expected_version, author, force=self.force)


class CanaryBody(_MoveBody):
    version: str = Field(default="", description="empty with a weight of 0")
    weight: float = Field(ge=0, le=1, description="the share of users; 0 ends it")
    force: bool = Field(default=False, description="even where the evaluation says that prompting is as good")

    def to_move(self, author: str) -> AliasMove:
        return AliasMove(self.alias, self.version, self.expected_version, author, self.weight, self.force)


class RollbackBody(_MoveBody):
    reason: str = Field(default="", max_length=500, description="for the history")

    def to_move(self, author: str) -> AliasMove:
        return AliasMove(self.alias, "", self.expected_version, author, reason=self.reason)


class DecisionsQuery(StrictBody):
    before: str = ""
    count: int = Field(default=50, ge=1, le=MAX_PAGE_SIZE)
    text: Searched = ""
    task: Searched = ""
    path: Searched = ""
    ending: Ending | None = None

    @field_validator("before")
    @classmethod
    def _is_a_cursor(cls, value: str) -> str:
        if not PAGE_CURSOR.fullmatch(value):
            raise ValueError("give `next` of the page before, or nothing for the newest decisions")
        return value


async def overview(request: Request) -> Response:
    """Returns the current state of paths, tasks, engines and the configuration."""
    console, caller = _authorize(request)
    dependencies = dependencies_of(request)
    workers, status = await dependencies.states_of_workers(), dependencies.configuration.status
    return json_answer({"overview": await console.overview(caller), "configuration": status, "workers": workers})


async def decisions(request: Request, wanted: Annotated[DecisionsQuery, Query()]) -> Response:
    console, caller = _authorize(request)
    query = DecisionQuery(wanted.text.strip(), wanted.task, wanted.path, wanted.ending)
    return json_answer(await console.decisions(caller, wanted.before, wanted.count, query))


async def decision(decision_id: str, request: Request) -> Response:
    console, caller = _authorize(request)
    return json_answer(await console.decision(caller, decision_id))


async def spending(request: Request, days: Annotated[int, Query(ge=1, le=DAYS_KEPT)] = 30) -> Response:
    console, caller = _authorize(request)
    return json_answer(await console.spending(caller, days))


async def adapters(request: Request) -> Response:
    console, caller = _authorize(request)
    return json_answer({"models": await console.adapters(caller)})


async def set_alias(body: AliasBody, request: Request) -> Response:
    return await _move(request, "alias", body)


async def set_canary(body: CanaryBody, request: Request) -> Response:
    return await _move(request, "canary", body)


async def roll_back(body: RollbackBody, request: Request) -> Response:
    return await _move(request, "rollback", body)


async def _move(request: Request, step: str, body: AliasBody | CanaryBody | RollbackBody) -> Response:
    console, caller = _authorize(request)
    return json_answer(await console.move(caller, body.model, step, body.to_move(_author(caller))))


def _author(caller: Caller) -> str:
    return f"console, {caller.key}" if caller.key else "console"


def _authorize(request: Request) -> tuple[Console, Caller]:
    """Returns the console and the caller. Raises PermissionDenied or InvalidArgument, as `check_site` does, if the page
    of another site may have sent the request.
    """
    console = dependencies_of(request).console
    assert console is not None  # otherwise its routes are not registered
    check_site(request, console.keys, console.hosts)
    return console, caller_of_request(request)


def add_console(app: FastAPI) -> None:
    """Adds the console's routes, which are not in /openapi.json: docs/console.md describes them."""
    app.state.console_assets = Assets()
    gets: dict[str, Handler] = {
        "/console": page,
        "/console/": without_slash,
        LOGIN_PATH: login_request,
        "/console/api/overview": overview,
        "/console/api/decisions": decisions,
        "/console/api/decisions/{decision_id}": decision,
        "/console/api/spending": spending,
        "/console/api/adapters": adapters,
        "/console/{name}": asset,
    }
    posts: dict[str, Handler] = {
        LOGIN_PATH: log_in,
        "/console/api/adapters/alias": set_alias,
        "/console/api/adapters/canary": set_canary,
        "/console/api/adapters/rollback": roll_back,
    }
    for path, handler in gets.items():
        app.get(path, include_in_schema=False)(handler)
    for path, handler in posts.items():
        app.post(path, include_in_schema=False)(handler)
