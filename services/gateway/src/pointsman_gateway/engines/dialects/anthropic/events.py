"""Parses the server-sent events of Anthropic's Messages API into the chunks of an answer.

Events are decoded into structs, so that values of a wrong type are found here and nowhere else. Events, blocks and
deltas of unknown types are skipped, as Anthropic asks its clients to do.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from pointsman_gateway.codec.choices import ANTHROPIC_THINKING, ENCRYPTED, SIGNED
from pointsman_gateway.codec.joined_chunks import ChunkJoiner
from pointsman_gateway.domain import Chunk, Chunks, TokenDetails, Usage
from pointsman_gateway.domain.usage import detailed
from pointsman_gateway.engines.dialects.openai.schema import Count
from pointsman_gateway.engines.dialects.token_kinds import WEB_SEARCHES, cache_writes, count_in, service_tier_of
from pointsman_gateway.engines.stream_lines import MAX_LINE_BYTES, split_lines

TOOL_USE = "tool_use"

_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    TOOL_USE: "tool_calls",
    "refusal": "content_filter",
}
NEXT_TEXT: Mapping[str, Any] = {"begins": "text"}
"""The `extra` of a chunk that separates a text block from an earlier one."""
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_NO_INPUT = (b"", b"{}", b"null")

_decode_input = msgspec.json.Decoder(dict[str, Any]).decode


class _UnreadableEvent(ValueError):
    """An event lacks what its type requires."""


class _UsageFields(msgspec.Struct, gc=False):
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation: Any = None
    output_tokens_details: Any = None
    service_tier: Any = None
    speed: Any = None
    inference_geo: Any = None
    server_tool_use: Any = None


class _Message(msgspec.Struct, gc=False):
    usage: _UsageFields | None = None


class _Block(msgspec.Struct, gc=False):
    type: str
    text: str | None = None
    id: str | None = None
    name: str | None = None
    data: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"")


class _Delta(msgspec.Struct, gc=False):
    type: str = ""
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    citation: dict[str, str | int | None] | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Error(msgspec.Struct, gc=False):
    type: str | None = None
    message: str | None = None


class _Event(msgspec.Struct, gc=False):
    """An event of any type, with the fields of all types."""

    type: str
    index: Count | None = None
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _UsageFields | None = None
    error: _Error | None = None


_decode = msgspec.json.Decoder(_Event).decode


class MessagesReader:
    """Parses one streamed answer of Anthropic's Messages API; implements `AnswerReader`."""

    def __init__(self, as_a_whole: bool = False, choices: int = 1) -> None:
        """Joins chunks that arrive together if `as_a_whole`; `choices` is not used, since the API has one choice."""
        self._joiner = ChunkJoiner() if as_a_whole else None
        self.done = False
        """Whether the last event has arrived."""
        self.failure = ""
        """Why the stream ended early; empty if there is no failure."""
        self.error: Mapping[str, Any] = {}
        """The status and parameter of an error; always empty, because errors in these streams have neither."""
        self._rest = bytearray()
        self._usage = _UsageFields(0, 0, 0, 0)
        self._has_estimate = False
        """Whether an estimate of the usage has been returned."""
        self._blocks: dict[int, str] = {}
        """The types of the blocks by their index."""
        self._calls: dict[int, int] = {}
        """The numbers of the tool calls by the index of their block."""

    def read(self, piece: bytes) -> Chunks:
        """Parses the next bytes of the stream; returns the chunks of all events that are complete now; the usage
        comes last.

        The first chunks are followed by an estimated usage, because the prompt is paid even if the client stops the
        answer. Sets `done` at the stream's end, and `failure` if the stream cannot be parsed or reports an error.
        """
        chunks: list[Chunk] = []
        for line in split_lines(self._rest, piece):
            if line.startswith(b"data:") and not (self.done or self.failure):
                try:
                    self._read_event(_decode(line[5:]), chunks)
                except (*_UNREADABLE, _UnreadableEvent) as error:
                    self.failure = f"an event of its stream cannot be read ({error}): {line[5:105]!r}"
        if len(self._rest) > MAX_LINE_BYTES and not self.done:
            self.failure = "a line of the stream is too long"
        if chunks and not self._has_estimate and not self.done:
            estimate = self._to_usage(is_estimate=True)
            self._has_estimate = bool(estimate.prompt_tokens)
            if self._has_estimate:
                chunks.append(Chunk(usage=estimate))
        return tuple(chunks) if self._joiner is None else self._joiner.join(tuple(chunks))

    def _read_event(self, event: _Event, chunks: list[Chunk]) -> None:
        match event.type:
            case "message_start":
                self._count(event.message.usage if event.message else None)
            case "content_block_start":
                self._start_block(event, chunks)
            case "content_block_delta":
                self._read_delta(event, chunks)
            case "message_delta":
                self._count(event.usage)
                if event.delta is not None and event.delta.stop_reason:
                    chunks.append(_end(event.delta.stop_reason, event.delta.stop_sequence))
            case "message_stop":
                self.done = True
                chunks.append(Chunk(usage=self._to_usage()))
            case "error":
                error = event.error or _Error()
                self.failure = error.message or error.type or "it has failed"

    def _start_block(self, event: _Event, chunks: list[Chunk]) -> None:
        index, block = event.index, event.content_block
        if index is None or block is None:
            raise _UnreadableEvent("a block needs an index and its content")
        follows_text = bool(self._blocks) and next(reversed(self._blocks.values())) == "text"
        self._blocks[index] = block.type
        if block.type == "text" and follows_text:
            chunks.append(Chunk(extra=NEXT_TEXT))  # so that citations stay with their text
        if block.type == "text" and block.text:
            chunks.append(Chunk(content=block.text))
        elif block.type == TOOL_USE:
            if not block.id or not block.name:
                raise _UnreadableEvent("a tool call needs an id and a name")
            number = self._calls[index] = len(self._calls)
            function = {"name": block.name, "arguments": _to_arguments(bytes(block.input))}
            call = {"index": number, "id": block.id, "type": "function", "function": function}
            chunks.append(Chunk(extra={"delta": {"tool_calls": [call]}}))
        elif block.type == "redacted_thinking" and block.data:
            chunks.append(_detail(index, ENCRYPTED, data=block.data))

    def _read_delta(self, event: _Event, chunks: list[Chunk]) -> None:
        index, delta = event.index, event.delta
        if index is None or delta is None or index not in self._blocks:
            raise _UnreadableEvent("a delta needs a block that has begun")
        match delta.type:
            case "text_delta" if delta.text:
                chunks.append(Chunk(content=delta.text))
            case "input_json_delta" if delta.partial_json and index in self._calls:
                call = {"index": self._calls[index], "function": {"arguments": delta.partial_json}}
                chunks.append(Chunk(extra={"delta": {"tool_calls": [call]}}))
            case "thinking_delta" if delta.thinking:
                chunks.append(Chunk(extra={"delta": {"reasoning_content": delta.thinking}}))
            case "citations_delta" if delta.citation:
                chunks.append(Chunk(extra={"delta": {"citations": [delta.citation]}}))
            case "signature_delta" if delta.signature:
                chunks.append(_detail(index, SIGNED, signature=delta.signature))

    def _count(self, usage: _UsageFields | None) -> None:
        """Records the token counts of an event; each replaces that of earlier events, and those that it lacks stay."""
        if usage is None:
            return
        for name in _UsageFields.__struct_fields__:
            count = getattr(usage, name)
            if count is not None:
                setattr(self._usage, name, count)

    def _to_usage(self, is_estimate: bool = False) -> Usage:
        usage = self._usage
        cached, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
        usual, one_hour = cache_writes(written, usage.cache_creation)
        details = TokenDetails(
            cache_write=usual,
            cache_write_1h=one_hour,
            reasoning=count_in(usage.output_tokens_details, "thinking_tokens"),
            service_tier=service_tier_of(usage.service_tier, usage.speed, _region_of(usage.inference_geo)),
            is_estimate=is_estimate,
            tool_requests=count_in(usage.server_tool_use, WEB_SEARCHES),
        )
        prompt = (usage.input_tokens or 0) + usual + one_hour + cached
        return detailed(prompt, usage.output_tokens or 0, cached, details)


def _region_of(geo: Any) -> str:
    """Returns the region in which the answer had to be made, since some models cost more then; empty if any was
    allowed.
    """
    return geo if isinstance(geo, str) and geo not in ("global", "not_available") else ""


def _end(reason: str, sequence: str | None) -> Chunk:
    finish_reason = _FINISH_REASONS.get(reason, "stop")
    return Chunk(finish_reason=finish_reason, extra={"stop_reason": sequence} if sequence else {})


def _detail(index: int, kind: str, **fields: str) -> Chunk:
    """Returns a chunk with one entry of `reasoning_details`, which clients must send back for Anthropic to accept its
    own thinking in later requests.
    """
    detail = {"type": kind, **fields, "format": ANTHROPIC_THINKING, "index": index}
    return Chunk(extra={"delta": {"reasoning_details": [detail]}})


def _to_arguments(written: bytes) -> str:
    """Returns the arguments in the first event of a tool call, as JSON text; empty if there are none yet. Anthropic
    sends them in later deltas, other providers at once. Raises an error of `_UNREADABLE` if they are no object.
    """
    if written in _NO_INPUT:
        return ""
    _decode_input(written)  # anything but an object is unreadable
    return written.decode()
