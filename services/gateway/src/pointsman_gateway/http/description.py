"""The routes that describe the gateway: metrics and the OpenAPI schema.

They need no key, so a request must cost little: pages are built in threads, and shared by all requests.
"""

import asyncio
from collections.abc import Callable
from threading import Lock
from typing import Any

from fastapi import FastAPI, Request
from pointsman_servicekit.metrics_page import MetricsPages, format_of
from pointsman_servicekit.shared_page import SharedPage, to_shared_page
from starlette.responses import RedirectResponse, Response

from pointsman_gateway.http.encoding import to_json


class SchemaPage:
    """The OpenAPI schema as JSON. It is built in a thread at the first request, which takes 0.2 s, and then kept."""

    def __init__(self, build: Callable[[], dict[str, Any]]) -> None:
        self._build = build
        self._page: SharedPage | None = None
        self._building = Lock()

    async def find(self) -> SharedPage:
        if self._page is not None:
            return self._page
        return await asyncio.to_thread(self._find_or_build)

    def _find_or_build(self) -> SharedPage:
        with self._building:
            if self._page is None:
                self._page = to_shared_page(to_json(self._build()), "application/json")
            return self._page


def add_description(app: FastAPI, describe: Callable[[], dict[str, Any]]) -> None:
    """Adds `/metrics`, `/openapi.json` and `/docs` to an application; `describe` returns the OpenAPI schema."""
    app.state.metrics_pages = MetricsPages(lambda format: app.state.dependencies.build_metrics_page(format))
    app.state.schema_page = SchemaPage(describe)
    app.get("/metrics")(metrics)
    app.get("/docs", include_in_schema=False)(docs)
    app.add_route("/openapi.json", schema, include_in_schema=False)  # FastAPI's would build it in the loop


async def metrics(request: Request) -> Response:
    """Returns all metrics in the OpenMetrics format, with exemplars, if the client accepts it, else in Prometheus's.

    They are up to a second old, plus the time that it takes to build the page. The status is 503 if there are several
    processes, and their supervisor does not answer.
    """
    pages: MetricsPages = request.app.state.metrics_pages
    found = await pages.find(format_of(request.headers.get("accept", "")))
    return _respond(request, found.page)


async def docs() -> Response:
    """Redirects to the OpenAPI schema from /docs, where FastAPI applications usually have their documentation."""
    return RedirectResponse("openapi.json")


async def schema(request: Request) -> Response:
    """Returns the OpenAPI schema."""
    page: SchemaPage = request.app.state.schema_page
    return _respond(request, await page.find())


def _respond(request: Request, page: SharedPage) -> Response:
    headers, body = page.respond(request.headers.get("accept-encoding", ""))
    # Starlette would add a charset to a `media_type` that has one already.
    return Response(body, headers=headers)
