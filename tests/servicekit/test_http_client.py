"""HTTP clients that accept no compressed answers."""

import ast
import gzip
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from pointsman_servicekit.http_client import open_async_client, open_client, read_body

SOURCES = Path(__file__).parents[2]
BOMB = gzip.compress(gzip.compress(b" " * 10_000_000))


def serve(request: httpx.Request) -> httpx.Response:
    """Answers a request. The answer is compressed although the client accepts no encoding, except for /plain."""
    assert request.headers.get_list("accept-encoding") == ["identity"]
    if request.url.path == "/plain":
        return httpx.Response(200, headers={"content-encoding": "Identity"}, stream=Pieces(b"x" * 100))
    return httpx.Response(200, headers={"content-encoding": "gzip, gzip"}, stream=Pieces(BOMB))


class Pieces(httpx.SyncByteStream, httpx.AsyncByteStream):
    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        yield self._body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body


def test_a_compressed_answer_is_an_error() -> None:
    with open_client(transport=httpx.MockTransport(serve), headers={"x-own": "1"}) as client:
        assert client.headers["x-own"] == "1"
        assert client.get("http://x/plain").content == b"x" * 100
        with pytest.raises(httpx.DecodingError, match="'gzip, gzip', although none was accepted"):
            client.get("http://x/")


async def test_a_compressed_answer_of_an_asynchronous_client_is_an_error() -> None:
    async with open_async_client(transport=httpx.MockTransport(serve)) as client:
        assert (await client.get("http://x/plain")).content == b"x" * 100
        with pytest.raises(httpx.DecodingError):
            await client.get("http://x/")


async def test_a_body_is_read_up_to_its_limit() -> None:
    async with open_async_client(transport=httpx.MockTransport(serve)) as client:
        async with client.stream("GET", "http://x/plain") as response:
            assert await read_body(response, 100) == b"x" * 100
        async with client.stream("GET", "http://x/plain") as response:
            with pytest.raises(ValueError, match="more than 99 bytes"):
                await read_body(response, 99)


def test_no_source_opens_a_client_of_httpx_itself() -> None:
    direct = {"Client", "AsyncClient", "get", "post", "put", "request", "stream"}
    found = []
    for folder in ("services", "libs", "cli", "tools"):
        for file in (SOURCES / folder).rglob("src/**/*.py"):
            if file.name == "http_client.py":
                continue
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and isinstance(node.func.value, ast.Name)
                    and (node.func.value.id, node.func.attr in direct) == ("httpx", True)
                ):
                    found.append(f"{file.relative_to(SOURCES)}:{node.lineno}")
    assert found == []
