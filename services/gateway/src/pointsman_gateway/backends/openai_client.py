"""Streams one answer from one OpenAI-compatible engine."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

import aiohttp
from pointsman_servicekit.errors import DeadlineExceeded, InvalidArgument, Unavailable
from pointsman_servicekit.logs import request_id

from pointsman_gateway.backends.stage import Call
from pointsman_gateway.domain import Chunk, Chunks, Usage

CONNECT_TIMEOUT = 2.0
LONGEST_GAP = 60.0
"""Seconds an engine may be silent between two chunks."""
LONGEST_LINE = 4 * 1024 * 1024


class OpenAIClient:
    """One connection pool for all engines."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def stream(self, call: Call) -> AsyncIterator[Chunks]:
        """The chunks of the answer as they come, the last with the usage.

        Raises InvalidArgument where the engine refuses the request itself, Unavailable where it cannot be reached or
        breaks off before the end, DeadlineExceeded. Closing the iterator closes the connection, which stops the
        engine's work.
        """
        timeout = aiohttp.ClientTimeout(
            total=call.deadline - asyncio.get_running_loop().time(), sock_connect=CONNECT_TIMEOUT, sock_read=LONGEST_GAP
        )
        # identity: a compressed stream would come in lumps.
        headers = {
            "content-type": "application/json",
            "x-request-id": request_id.get(),
            "accept-encoding": "identity",
        }
        if call.api_key:
            headers["authorization"] = f"Bearer {call.api_key}"
        try:
            async with self._session.post(
                f"{call.url}/v1/chat/completions", data=_body(call), headers=headers, timeout=timeout
            ) as response:
                if response.status != 200:
                    raise _refusal(call, response.status, await response.read())
                finished = False
                async for data in _events(response.content):
                    if data == b"[DONE]":
                        finished = True
                        break
                    chunks = _read(call, data)
                    if chunks:
                        yield tuple(chunks)
                if not finished:
                    raise _broke_off(call, "the stream ended without [DONE]")
        except TimeoutError as error:
            if asyncio.get_running_loop().time() >= call.deadline:
                raise DeadlineExceeded("the request's time ran out", code="deadline_exceeded") from error
            raise _broke_off(call, str(error) or "no answer in time") from error
        except aiohttp.ClientError as error:
            raise _broke_off(call, str(error) or type(error).__name__) from error


def _body(call: Call) -> io.BytesIO:
    """As a file, which aiohttp sends in pieces: a long one sent at once would hold up the event loop."""
    return io.BytesIO(json.dumps(_asked(call)).encode())


def _asked(call: Call) -> dict[str, Any]:
    sampling = call.sampling
    named = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "stop": list(sampling.stop) or None,
    }
    return {
        **sampling.extra,
        **{key: value for key, value in named.items() if value is not None},
        "model": call.model,
        "messages": [{"role": m.role, "content": m.content, **m.extra} for m in call.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def _events(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """The `data:` lines of a server-sent event stream (an engine sends each event's data on one line)."""
    rest = b""
    async for piece in content.iter_any():
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > LONGEST_LINE:
            raise aiohttp.ClientPayloadError("a line of the stream is too long")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


def _read(call: Call, data: bytes) -> list[Chunk]:
    try:
        event = json.loads(data)
        failure = event.get("error")
        chunks = [] if failure else _chunks(event)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _broke_off(call, f"an event of its stream cannot be read: {data[:100]!r}") from error
    if failure:
        raise _broke_off(call, str(failure.get("message") if isinstance(failure, dict) else failure))
    return chunks


def _chunks(event: Mapping[str, Any]) -> list[Chunk]:
    """What the event holds; a chunk that brings nothing but a role is no token, and left out."""
    chunks = [chunk for choice in event.get("choices") or () if (chunk := _chunk(choice)) != Chunk(chunk.index)]
    usage = event.get("usage")
    if usage:
        details = usage.get("prompt_tokens_details") or {}
        counted = Usage(usage["prompt_tokens"], usage.get("completion_tokens") or 0, details.get("cached_tokens") or 0)
        chunks.append(Chunk(usage=counted))
    return chunks


def _chunk(choice: Mapping[str, Any]) -> Chunk:
    delta = choice.get("delta") or {}
    rest = {key: value for key, value in delta.items() if key not in ("role", "content") and value is not None}
    extra: dict[str, Any] = {"delta": rest} if rest else {}
    if choice.get("logprobs") is not None:
        extra["logprobs"] = choice["logprobs"]
    return Chunk(choice.get("index", 0), delta.get("content") or "", choice.get("finish_reason"), extra)


def _refusal(call: Call, status: int, body: bytes) -> Exception:
    message, param = body[:500].decode("utf-8", "replace"), None
    with suppress(ValueError, LookupError, TypeError, AttributeError):  # not worded as OpenAI's errors are
        error = json.loads(body)["error"]
        message, param = str(error["message"]), error.get("param")
    if status in (400, 413, 422):
        code = "context_length_exceeded" if param in ("input_tokens", "prompt") else "engine_refused"
        return InvalidArgument(message, code=code, param="messages" if code == "context_length_exceeded" else param)
    return Unavailable(f"engine '{call.engine}' answered {status}: {message}", code="engine_error", retry_after=1.0)


def _broke_off(call: Call, why: str) -> Unavailable:
    return Unavailable(f"engine '{call.engine}' failed: {why}", code="engine_unavailable", retry_after=1.0)
