"""Anthropic's Messages API as an engine: OpenAI's chat requests are converted to it, and its streams back to chunks."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from pointsman_servicekit.errors import InvalidArgument

from pointsman_gateway.config.providers import Endpoint
from pointsman_gateway.domain import Chunk, Chunks, Message, Usage
from pointsman_gateway.engines.engine_client import EngineRequest

DEFAULT_MAX_TOKENS = 4096
"""The API requires a limit; this one is for requests and paths without one."""
MAX_TEMPERATURE = 1.0
"""OpenAI's temperatures go up to 2; higher ones than this are cut."""
MAX_REST_BYTES = 4 * 1024 * 1024

_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_decode = msgspec.json.Decoder().decode


def to_messages_body(request: EngineRequest, endpoint: Endpoint) -> dict[str, Any]:
    """Returns the body of a request to the Messages API; raises InvalidArgument if it cannot be expressed there."""
    sampling = request.sampling
    if request.operation != "chat":
        raise _unsupported("this model continues no texts; send a chat completion", "prompt")
    extra = dict(sampling.extra)
    system = [m.content for m in request.messages if m.role in ("system", "developer") and m.content]
    body: dict[str, Any] = {
        "model": request.model,
        "messages": _to_turns([m for m in request.messages if m.role not in ("system", "developer")]),
        "max_tokens": DEFAULT_MAX_TOKENS if sampling.max_tokens is None else sampling.max_tokens,
        "stream": True,
    }
    if system:
        body["system"] = "\n\n".join(system)
    if sampling.temperature is not None:
        body["temperature"] = min(sampling.temperature, MAX_TEMPERATURE)
    if sampling.top_p is not None:
        body["top_p"] = sampling.top_p
    if sampling.stop:
        body["stop_sequences"] = list(sampling.stop)
    tools, choice, parallel = (extra.pop(name, None) for name in ("tools", "tool_choice", "parallel_tool_calls"))
    if tools:
        body["tools"] = [_to_tool(tool.get("function", tool)) for tool in tools]
        body["tool_choice"] = _to_tool_choice(choice, parallel)
    output = _to_output_config(extra.pop("response_format", None), extra.pop("reasoning_effort", None))
    return {**extra, **body, **({"output_config": output} if output else {})}


def _to_output_config(response_format: Any, effort: Any) -> dict[str, Any]:
    config: dict[str, Any] = (
        {"effort": "low" if effort == "minimal" else effort} if effort not in (None, "none") else {}
    )
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    if kind == "json_schema":
        schema = (response_format.get("json_schema") or {}).get("schema") or {"type": "object"}
        config["format"] = {"type": "json_schema", "schema": schema}
    elif kind not in (None, "text"):
        raise _unsupported(f"this model has no response_format of type '{kind}'; use json_schema", "response_format")
    return config


def _unsupported(message: str, param: str) -> InvalidArgument:
    return InvalidArgument(message, code="unsupported_parameter", param=param)


def _to_tool(function: Mapping[str, Any]) -> dict[str, Any]:
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    described = {"description": function["description"]} if function.get("description") else {}
    return {"name": function.get("name", ""), **described, "input_schema": schema}


def _to_tool_choice(choice: Any, parallel: Any) -> dict[str, Any]:
    if isinstance(choice, Mapping):
        converted = {"type": "tool", "name": (choice.get("function") or {}).get("name", "")}
    else:
        converted = {"type": {"none": "none", "required": "any"}.get(choice, "auto")}
    return {**converted, "disable_parallel_tool_use": True} if parallel is False and choice != "none" else converted


def _to_turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Merge messages into alternating user and assistant turns, as Anthropic requires. A result of a tool is part of a
    user turn.
    """
    turns: list[dict[str, Any]] = []
    for message in messages:
        role = "assistant" if message.role == "assistant" else "user"
        blocks = _to_blocks(message)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    return turns


def _to_blocks(message: Message) -> list[dict[str, Any]]:
    if message.role in ("tool", "function"):
        call_id = message.extra.get("tool_call_id") or message.extra.get("name", "")
        return [{"type": "tool_result", "tool_use_id": call_id, "content": message.content}]
    blocks: list[dict[str, Any]] = [{"type": "text", "text": message.content}] if message.content.strip() else []
    for call in message.extra.get("tool_calls") or ():
        function = call.get("function", {})
        blocks.append(
            {
                "type": "tool_use",
                "id": call.get("id", ""),
                "name": function.get("name", ""),
                "input": _to_input(function.get("arguments")),
            }
        )
    return blocks


def _to_input(arguments: Any) -> dict[str, Any]:
    """Return a tool call's arguments as an object. Text that is not a JSON object becomes its only field."""
    try:
        decoded = json.loads(arguments or "{}") if isinstance(arguments, str) else arguments
    except ValueError:
        decoded = None
    return decoded if isinstance(decoded, dict) else {"arguments": arguments}


class MessagesReader:
    """Reads one stream of the Messages API, piece by piece, as `EventReader` reads OpenAI's."""

    def __init__(self, as_a_whole: bool = False, choices: int = 1) -> None:
        self.done = False
        """Whether the last event has arrived."""
        self.failure = ""
        """Why the stream ended early."""
        self.error: Mapping[str, Any] = {}
        """The error that the stream reported."""
        self._rest = b""
        self._usage: dict[str, int] = {}
        self._calls: dict[int, int] = {}
        """The number of the tool call, by its block's index."""

    def read(self, piece: bytes) -> Chunks:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        chunks: list[Chunk] = []
        for line in lines:
            if line.startswith(b"data:") and not (self.done or self.failure):
                try:
                    self._read_event(_decode(line[5:]), chunks)
                except (msgspec.MsgspecError, RecursionError, LookupError, TypeError, AttributeError, ValueError):
                    self.failure = f"an event of its stream cannot be read: {line[5:105]!r}"
        if len(self._rest) > MAX_REST_BYTES:
            self.failure = "a line of the stream is too long"
        return tuple(chunks)

    def _read_event(self, event: Mapping[str, Any], chunks: list[Chunk]) -> None:
        match event["type"]:
            case "message_start":
                self._count(event["message"].get("usage"))
            case "content_block_start":
                self._start_block(event["index"], event["content_block"], chunks)
            case "content_block_delta":
                self._read_delta(event["index"], event["delta"], chunks)
            case "message_delta":
                self._count(event.get("usage"))
                reason = event["delta"].get("stop_reason")
                if reason:
                    chunks.append(Chunk(finish_reason=_FINISH_REASONS.get(reason, "stop")))
            case "message_stop":
                self.done = True
                chunks.append(Chunk(usage=self._to_usage()))
            case "error":
                self.error = event["error"]
                self.failure = str(self.error.get("message") or self.error.get("type"))

    def _start_block(self, index: int, block: Mapping[str, Any], chunks: list[Chunk]) -> None:
        if block["type"] == "text" and block.get("text"):
            chunks.append(Chunk(content=block["text"]))
        elif block["type"] == "tool_use":
            number = self._calls[index] = len(self._calls)
            function = {"name": block["name"], "arguments": ""}
            call = {"index": number, "id": block["id"], "type": "function", "function": function}
            chunks.append(Chunk(extra={"delta": {"tool_calls": [call]}}))

    def _read_delta(self, index: int, delta: Mapping[str, Any], chunks: list[Chunk]) -> None:
        match delta["type"]:
            case "text_delta" if delta["text"]:
                chunks.append(Chunk(content=delta["text"]))
            case "input_json_delta" if delta["partial_json"]:
                call = {"index": self._calls[index], "function": {"arguments": delta["partial_json"]}}
                chunks.append(Chunk(extra={"delta": {"tool_calls": [call]}}))
            case "thinking_delta" if delta["thinking"]:
                chunks.append(Chunk(extra={"delta": {"reasoning_content": delta["thinking"]}}))

    def _count(self, usage: Any) -> None:
        """Records the token counts of an event; they replace the counts of earlier events."""
        for name, count in (usage or {}).items():
            if isinstance(count, int) and count >= 0:
                self._usage[name] = count

    def _to_usage(self) -> Usage:
        fresh, written, cached = (
            self._usage.get(f"{kind}input_tokens", 0) for kind in ("", "cache_creation_", "cache_read_")
        )
        return Usage(fresh + written + cached, self._usage.get("output_tokens", 0), cached)
