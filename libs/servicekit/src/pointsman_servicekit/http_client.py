"""Opens httpx's clients so that no server can fill their memory with a compressed answer.

httpx decompresses each received piece as a whole, and undoes any number of compressions: two kilobytes can become
gigabytes. Therefore servers are asked for uncompressed answers, and a compressed one is an error.
"""

from typing import Any

import httpx

_PLAIN = {"accept-encoding": "identity"}


def open_client(**options: Any) -> httpx.Client:
    """Opens an httpx.Client with these options, which may not include `event_hooks`.

    The client asks for uncompressed answers, whatever the option `headers` says. A request whose answer is compressed
    raises httpx.DecodingError before the body is read.
    """
    return httpx.Client(event_hooks={"response": [_refuse_encoded]}, **_with_plain(options))


def open_async_client(**options: Any) -> httpx.AsyncClient:
    """Opens an httpx.AsyncClient with these options, which may not include `event_hooks`.

    The client asks for uncompressed answers. A request whose answer is compressed raises httpx.DecodingError before the
    body is read.
    """
    return httpx.AsyncClient(event_hooks={"response": [_refuse_encoded_async]}, **_with_plain(options))


async def read_body(response: httpx.Response, max_bytes: int) -> bytes:
    """Returns the body of a streamed response.

    Raises httpx.HTTPError if the body cannot be received, and ValueError if it has more than `max_bytes` bytes.
    """
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > max_bytes:
            raise ValueError(f"the answer of {response.url} has more than {max_bytes} bytes")
    return bytes(body)


def _with_plain(options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "headers": {**(options.get("headers") or {}), **_PLAIN}}


def _refuse_encoded(response: httpx.Response) -> None:
    encoding = response.headers.get("content-encoding", "").strip()
    if encoding.lower() not in ("", "identity"):
        raise httpx.DecodingError(
            f"the answer has the content-encoding {encoding[:40]!r}, although none was accepted",
            request=response.request,
        )


async def _refuse_encoded_async(response: httpx.Response) -> None:
    _refuse_encoded(response)
