"""Inputs that anybody on the network can send: requests without a valid key, raw bytes, and HTTP/2 frames."""

from collections.abc import Iterator

from benchmarks.costs.input import CONSOLE, FULL, Input
from tests.security.http_client import head
from tests.security.measuring import MIB
from tests.security.test_http_bodies import POSTS


def keyless_inputs() -> Iterator[Input]:
    text = b'{"model":"tiny","messages":[{"role":"user","content":"' + b"a" * (FULL - 100) + b'"}]}'
    deep = b"[" * FULL
    for path in (*POSTS, "/console/api/login"):
        yield Input(f"{path}: 8 MiB of text", "", "POST", path, text, CONSOLE)
        yield Input(f"{path}: lists 8 M deep", "", "POST", path, deep, CONSOLE)
    for path in (
        "/metrics",
        "/openapi.json",
        "/docs",
        "/console",
        "/console/console.js",
        "/healthz",
        "/readyz",
        "/nothing",
        "/",
    ):
        yield Input(f"{path}", "", "GET", path)
    tokens = {
        "unknown key": "pm_" + "A" * 8 + "_" + "b" * 32,
        "30 kB": "a" * 30_000,
        "token": f"{'e' * 60}.{'f' * 900}.{'g' * 340}",
    }
    for name, token in tokens.items():
        yield Input(f"/v1/models: {name}", "", "GET", "/v1/models", headers={"authorization": f"Bearer {token}"})
    for origin in ("http://[", "http://evil.example"):
        yield Input(
            f"/console/api/login: origin {origin}",
            "",
            "POST",
            "/console/api/login",
            b"{}",
            {**CONSOLE, "origin": origin},
        )
    start = head("POST", "/v1/chat/completions", "transfer-encoding: chunked")
    yield Input("HTTP: chunks of a byte", "", raw=start + b"1\r\na\r\n" * 200_000 + b"0\r\n\r\n")
    yield Input("HTTP: trailers", "", raw=start + b"0\r\n" + b"x: yyyyyyyyyyyyyyyy\r\n" * 90_000 + b"\r\n")
    yield Input("HTTP: chunk extensions", "", raw=start + b"1;" + b"a=b;" * 250_000 + b"\r\na\r\n0\r\n\r\n")
    yield Input("HTTP: 100 headers", "", raw=head("GET", "/v1/models", *["x: " + "y" * 200] * 95))
    yield Input("HTTP: a header without end", "", raw=b"GET / HTTP/1.1\r\nx: " + b"a" * 4 * MIB)
    yield Input("HTTP: 100 requests at once", "", raw=head("GET", "/v1/models") * 100)
    yield Input("HTTP: the metrics 10 times at once", "", raw=head("GET", "/metrics") * 10)
