"""Mutated JSON, queries and headers for every route of the gateway, with keys of every kind."""

from random import Random
from types import SimpleNamespace
from typing import Any, cast

from pointsman_gateway.http.app import build_api
from pointsman_gateway.http.dependencies import HttpDependencies

from tests.fuzz.mutations import change_bytes, change_json, encode
from tests.fuzz.problems import Problem, problem_of
from tests.fuzz.rig import HttpCase, Rig
from tests.fuzz.valid_bodies import BODIES, body_by_schema

KEYS = ("plain", "plain", "plain", "plain", "admin", "admin", "operator", "scoped", "limited", "wrong", "")
NAMES = (
    "tiny",
    "auto",
    "abc",
    "%00",
    "%2e%2e%2fx",
    "a" * 300,
    "%ff",
    "triage@prod",
    "path:handbook",
    "{{x}}",
    "1-0",
    "é",
)
QUERIES = (
    "",
    "",
    "",
    "tenant=a",
    "days=1",
    "days=nan",
    "limit=-1",
    "limit=99999999999999999999",
    "a[]=1&a[]=2",
    "%ff=%00",
    "x" * 900,
)
ORIGINS = (
    "http://[",
    "http://a]b[",
    "null",
    "http://evil.example",
    "",
    "http://127.0.0.1:1",
    "://",
    "http://127.0.0.1:99999999",
)
HEADERS = (
    {"x-request-timeout": "nan"},
    {"x-request-timeout": "1e400"},
    {"x-request-timeout": "-1"},
    {"x-request-timeout": "0.001"},
    {"cache-control": "no-cache"},
    {"accept": "text/event-stream"},
    {"accept-encoding": "gzip"},
    {"x-request-id": "a" * 200},
    {"content-type": "text/plain"},
    {"content-type": "multipart/form-data"},
    {"content-encoding": "gzip"},
    {"traceparent": "00-zz"},
    {"anthropic-version": "x"},
    {"anthropic-beta": "a,b"},
    {"x-forwarded-for": "1"},
    *({"x-pointsman-console": "1", "origin": origin} for origin in ORIGINS),
    {"x-pointsman-console": "1"},
)
STREAMABLE = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
FURTHER_PATHS = ("/openai/v1/chat/completions", "/openai/deployments/scripted/chat/completions")


class JsonRoutes:
    name, share, lanes = "json_routes", 0.3, 8

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        dependencies = cast(HttpDependencies, SimpleNamespace(has_metrics_port=False, console=True))
        api = build_api(dependencies)
        listed = [(sorted(route.methods), route.path) for route in cast(Any, api.routes)]
        self._routes = [(method, path) for methods, path in listed for method in methods]
        self._routes += [("POST", path) for path in FURTHER_PATHS]
        with_body = [route for route in self._routes if route[0] in ("POST", "PATCH")]
        self._routes += 4 * with_body
        self._description = api.openapi()

    def make(self, random: Random, marker: str) -> HttpCase:
        method, template = random.choice(self._routes)
        path = template.replace(":path}", "}")
        if random.random() < 0.02:
            method = random.choice(("PUT", "DELETE", "OPTIONS", "POST", "GET", "TRACE"))
        body = b"" if method in ("GET", "HEAD") else self._body(random, template)
        while "{" in path:
            path = path.partition("{")[0] + random.choice(NAMES) + path.partition("}")[2]
        query = random.choice(QUERIES)
        headers = dict(random.choice(HEADERS)) if random.random() < 0.3 else {}
        if path.startswith("/console/api") and random.random() < 0.8:
            headers.setdefault("x-pointsman-console", "1")
        return HttpCase(method, path + ("?" + query if query else ""), headers, body, random.choice(KEYS))

    def _body(self, random: Random, path: str) -> bytes:
        valid = random.choice(BODIES[path]) if path in BODIES else self._by_schema(random, path)
        body = change_json(random, valid)
        if path in STREAMABLE and isinstance(body, dict) and random.random() < 0.3:
            body["stream"] = True
        encoded = encode(random, body)
        return change_bytes(random, encoded) if random.random() < 0.2 else encoded

    def _by_schema(self, random: Random, path: str) -> Any:
        for operation in self._description["paths"].get(path.replace(":path}", "}"), {}).values():
            if "requestBody" in operation:
                schema = operation["requestBody"]["content"]["application/json"]["schema"]
                return body_by_schema(random, schema, self._description["components"]["schemas"])
        return {}

    async def carry_out(self, case: HttpCase) -> Problem | None:
        answer = await self._rig.ask(case)
        # The gateway's own model may take longer for thousands of texts than the deadline that every case has.
        is_late = case.path.startswith("/v1/embeddings") and answer.codes == {"deadline_exceeded"}
        may_fail = "x-request-timeout" in case.headers or is_late
        return problem_of(f"{case.method} {case.path.partition('?')[0][:60]}", answer, may_fail)
