"""Calls engines with `provider: litellm/NAME` through LiteLLM's SDK, for providers that have no preset.

This is slower than the gateway's own client, because the SDK builds objects for each event, which are then serialized
again so that they can be parsed like the answers of other engines.
"""

import asyncio
import importlib
import math
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, cast

import msgspec
from pointsman_servicekit.errors import InvalidArgument, PointsmanError

from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.providers import LITELLM, LITELLM_URL
from pointsman_gateway.domain import Chunks
from pointsman_gateway.engines.dialects.openai.completions import openai_body
from pointsman_gateway.engines.dialects.openai.event_template import BEGIN, END
from pointsman_gateway.engines.dialects.openai.events import DONE, EventReader
from pointsman_gateway.engines.engine_client import (
    EngineClient,
    EngineRequest,
    Transfer,
    broke_off,
    no_first_token_in_time,
    no_more_in_time,
    out_of_time,
    refused,
    too_long,
    unreadable,
)
from pointsman_gateway.ports import ChunkSink

_encode = msgspec.json.Encoder().encode


def load_litellm() -> Any:
    """Imports LiteLLM's SDK, which takes seconds, and returns its module; raises ConfigError if it is not installed.

    First sets environment variables that keep the SDK from downloading prices.
    """
    # Otherwise its import downloads a list of prices, and reads a file .env.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")
    try:
        litellm: Any = importlib.import_module("litellm")
    except ImportError as error:
        raise ConfigError(
            f"models.yaml: provider 'litellm/...' needs the extra: pip install 'pointsman-gateway[litellm]' ({error})"
        ) from error
    litellm.telemetry, litellm.suppress_debug_info = False, True
    return litellm


class LiteLLMClient:
    """Calls engines with `provider: litellm/NAME` through LiteLLM's SDK, and all others through the client `inner`.

    Implements `EngineClient`.
    """

    def __init__(self, inner: EngineClient) -> None:
        self._inner = inner

    def send(self, request: EngineRequest, sink: ChunkSink) -> Transfer:
        if request.api.dialect == LITELLM:
            return LiteLLMTransfer(request, sink)
        return self._inner.send(request, sink)


class LiteLLMTransfer:
    """One request to an engine through LiteLLM's SDK, whose answer a task pushes to a sink; implements `Transfer`."""

    def __init__(self, request: EngineRequest, sink: ChunkSink) -> None:
        """Starts the task. Raises InvalidArgument if the request is no chat, or has too many stop sequences."""
        arguments = _arguments(request)
        self._request = request
        self._sink: ChunkSink | None = sink
        self._has_begun = False
        self.is_sent = True
        self._received = 0
        """Number of bytes of the answer's events so far."""
        self._may_push = asyncio.Event()
        self._may_push.set()
        self._clock = asyncio.get_running_loop().time
        self._reading = asyncio.create_task(self._run(arguments), name="litellm")

    def pause(self) -> None:
        self._may_push.clear()

    def resume(self) -> None:
        self._may_push.set()

    def close(self) -> None:
        self._sink = None
        self._reading.cancel()

    async def _run(self, arguments: dict[str, Any]) -> None:
        """Reads the answer, and reports its end to the sink, whatever the reason."""
        failure: Exception | None = None
        try:
            failure = await self._read(arguments)
        except asyncio.CancelledError:  # by `close`, or within the SDK
            failure = broke_off(self._request, "its SDK has cancelled the call")
        except Exception as bug:
            failure = unreadable(self._request, bug)
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.ended(failure)

    async def _read(self, arguments: dict[str, Any]) -> PointsmanError | None:
        """Returns the error that the answer ended with; None if it is complete."""
        try:
            await self._transfer(arguments)
        except PointsmanError as error:
            return error
        except TimeoutError:
            return self._late()
        except Exception as error:
            if not isinstance(error, _sdk_errors()):
                raise
            return self._failure_of(error)
        return None

    async def _transfer(self, arguments: dict[str, Any]) -> None:
        """Reads the whole stream and pushes its chunks; raises the SDK's errors, TimeoutError or PointsmanError."""
        request, stream = self._request, cast(Any, None)
        litellm, reader = load_litellm(), EventReader(request.as_a_whole, request.sampling.extra.get("n") or 1)
        try:
            async with asyncio.timeout_at(self._first_token_deadline()):
                stream = await litellm.acompletion(**arguments)
                events = aiter(stream)
                event = await anext(events, None)
            while event is not None:
                await self._push(reader, BEGIN + _encode(event.model_dump(exclude_none=True)) + END)
                event = await self._next(events)
            await self._push(reader, BEGIN + DONE + END)
        finally:
            if stream is not None:
                with suppress(Exception):  # it may be closed already
                    await stream.aclose()

    async def _push(self, reader: EventReader, event: bytes) -> None:
        self._received += len(event)
        if self._received > self._request.max_bytes:
            raise too_long(self._request)
        chunks: Chunks = reader.read(event)
        if reader.failure:
            raise broke_off(self._request, reader.failure)
        await self._may_push.wait()
        if chunks and self._sink is not None:
            self._has_begun = True
            self._sink.chunks(chunks, reader.done)

    async def _next(self, events: AsyncIterator[Any]) -> Any:
        idle = self._clock() + self._request.timeouts.stream_idle_seconds
        async with asyncio.timeout_at(min(idle, self._request.deadline)):
            return await anext(events, None)

    def _first_token_deadline(self) -> float:
        return min(self._clock() + self._request.timeouts.first_token_seconds, self._request.deadline)

    def _late(self) -> PointsmanError:
        if self._clock() >= self._request.deadline:
            return out_of_time()
        return no_more_in_time(self._request) if self._has_begun else no_first_token_in_time(self._request)

    def _failure_of(self, error: Exception) -> PointsmanError:
        status = getattr(error, "status_code", None)
        message = f"{type(error).__name__}: {getattr(error, 'message', error)}"
        if self._has_begun or not isinstance(status, int) or isinstance(error, _connection_errors()):
            return broke_off(self._request, message)
        code = "context_length_exceeded" if type(error).__name__ == "ContextWindowExceededError" else ""
        return refused(
            self._request,
            status,
            message,
            param=getattr(error, "param", None),
            retry_after=_retry_after(error),
            code=code,
        )


def _sdk_errors() -> tuple[type[Exception], ...]:
    """Returns the classes of the SDK's errors; any other exception is a bug."""
    return importlib.import_module("openai").OpenAIError, importlib.import_module("httpx").HTTPError


def _connection_errors() -> type[Exception]:
    connection_error: type[Exception] = importlib.import_module("openai").APIConnectionError  # also of timeouts
    return connection_error


def _retry_after(error: Exception) -> float | None:
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 < seconds < math.inf else None


def _arguments(request: EngineRequest) -> dict[str, Any]:
    """Returns the arguments of the SDK's `acompletion`. Raises InvalidArgument if the request is no chat, or has too
    many stop sequences.
    """
    if request.operation != "chat":
        raise InvalidArgument(
            "this model has no text completions; send a chat completion", code="unsupported_parameter", param="prompt"
        )
    key = request.api.auth_header.strip().rpartition(" ")[2]
    limit = request.timeouts.first_token_seconds + request.timeouts.stream_idle_seconds
    return {
        **openai_body(request, request.api.endpoints["chat"]),
        "num_retries": 0,  # the gateway retries, within its budget
        "max_retries": 0,
        "timeout": limit,  # of silence, in case that the task's own timeouts do not interrupt the SDK
        **({"api_key": key} if key else {}),
        **({"api_base": request.url} if request.url != LITELLM_URL else {}),
    }
