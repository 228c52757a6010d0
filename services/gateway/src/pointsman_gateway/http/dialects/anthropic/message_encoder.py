"""Encodes answers of the Messages API: as Anthropic's stream of events, or as a whole message."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.codec.choices import ANTHROPIC_THINKING, ENCRYPTED, MAX_TOOL_CALLS, REASONING_KEYS, SIGNED
from pointsman_gateway.domain import Chunk, Chunks, Finished, Passage, Started, Usage
from pointsman_gateway.domain.usage import NO_DETAILS
from pointsman_gateway.http.citations import message_citations
from pointsman_gateway.http.dialects.anthropic.errors import ANTHROPIC_ERRORS
from pointsman_gateway.http.encoding import receipt_body, to_json

Event = dict[str, Any]

STOP_REASONS = {"length": "max_tokens", "content_filter": "refusal"}
"""Anthropic's stop reasons by the engine's finish reason; for other finish reasons see `_stop_fields`."""
TEXT, THINKING, REDACTED, TOOL_USE = "text", "thinking", "redacted_thinking", "tool_use"
DELTAS = {
    TEXT: ("text_delta", "text"),
    THINKING: ("thinking_delta", "thinking"),
    TOOL_USE: ("input_json_delta", "partial_json"),
}
"""The type of a block's deltas, and the name of the field with a delta's text, by the type of the block."""
_TEXT_DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
    b'"delta":{"type":"text_delta","text":%b}}\n\n'
)


class _LastEvent(msgspec.Struct):
    choices: list[dict[str, Any]]


_decode_last_event = msgspec.json.Decoder(_LastEvent).decode


@dataclass(slots=True)
class OpenBlock:
    """A content block of a message, such as its text or a tool call."""

    kind: str
    index: int
    head: dict[str, Any]
    """The block's fields without text or arguments. A signature and citations are added when they arrive."""
    pieces: list[str] = field(default_factory=list)

    def start(self) -> Event:
        return {"type": "content_block_start", "index": self.index, "content_block": self.head}

    def delta(self, piece: str) -> Event:
        kind, name = DELTAS[self.kind]
        return {"type": "content_block_delta", "index": self.index, "delta": {"type": kind, name: piece}}

    def stop(self) -> Event:
        return {"type": "content_block_stop", "index": self.index}

    def body(self) -> dict[str, Any]:
        content = "".join(self.pieces)
        if self.kind == REDACTED:
            return self.head
        return {**self.head, **({"input": _to_input(content)} if self.kind == TOOL_USE else {self.kind: content})}


class MessageEncoder:
    """Encodes one answer in Anthropic's format, as a stream of events or as one message; implements `AnswerEncoder`."""

    error_format = ANTHROPIC_ERRORS

    def __init__(self, stop_sequences: Sequence[str]) -> None:
        """Takes the client's stop sequences; an answer can end with the stop reason "stop_sequence" only at these."""
        self._stop_sequences = stop_sequences
        self._head: dict[str, Any] = {}
        self._blocks: list[OpenBlock] = []
        self._calls: dict[int, OpenBlock] = {}
        """The blocks of tool calls, by the index that the engine gives them."""
        self._open: OpenBlock | None = None
        """The block whose pieces are streamed now. If it is a tool call, later blocks are streamed at the end."""
        self._text_index = -1
        """The index of the open block if it is a text, else -1."""
        self._is_streamed = False
        self._stop_sequence: str | None = None
        self._has_refusal = False

    def encode_start(self, started: Started) -> bytes:
        self._set_head(started)
        self._is_streamed = True
        message = {
            **self._head,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(Usage(0, 0)),
        }
        return _encode({"type": "message_start", "message": message}) + _encode({"type": "ping"})

    def encode_chunks(self, chunks: Chunks) -> bytes:
        encoded = []
        for chunk in chunks:
            if self._text_index >= 0 and not chunk.extra and not chunk.finish_reason and not chunk.index:
                encoded.append(_TEXT_DELTA % (self._text_index, to_json(chunk.content)))
            else:
                encoded += map(_encode, self._add_chunk(chunk))
        return b"".join(encoded)

    def encode_end(self, finished: Finished) -> bytes:
        receipt = finished.receipt
        return b"".join([
            *map(_encode, self._cite(receipt.sources)),
            *map(_encode, self._end_blocks()),
            _encode({
                "type": "message_delta",
                "delta": self._stop_fields(finished.finish_reason),
                "usage": _usage(receipt.usage, of_delta=True),
                "pointsman": receipt_body(receipt),
            }),
            _encode({"type": "message_stop"}),
        ])  # fmt: skip

    def encode_error(self, error: PointsmanError) -> bytes:
        return _encode(ANTHROPIC_ERRORS.encode(error)[1])

    def encode_whole(self, started: Started, chunks: Sequence[Chunk], finished: Finished) -> bytes:
        self._set_head(started)
        for chunk in chunks:
            for _ in self._add_chunk(chunk):
                pass
        receipt = finished.receipt
        for _ in self._cite(receipt.sources):
            pass
        return to_json({
            **self._head,
            "content": [block.body() for block in self._blocks],
            **self._stop_fields(finished.finish_reason),
            "usage": _usage(receipt.usage),
            "pointsman": receipt_body(receipt),
        })  # fmt: skip

    def _set_head(self, started: Started) -> None:
        id = "msg_" + started.decision.id
        self._head = {"id": id, "type": "message", "role": "assistant", "model": started.model}

    # -- collecting: the methods return the events of what they add

    def _add_chunk(self, chunk: Chunk) -> Iterator[Event]:
        """Adds a chunk to the blocks, and yields its events. Chunks of all choices but the first are ignored, since a
        message is one answer.
        """
        if chunk.index:
            return
        delta = chunk.extra.get("delta") or {}
        thinking = next((delta[key] for key in REASONING_KEYS if isinstance(delta.get(key), str)), "")
        if thinking:
            yield from self._add_text(THINKING, thinking)
        for detail in _entries(delta.get("reasoning_details")):
            yield from self._add_detail(detail)
        if chunk.extra.get("begins") == TEXT:
            yield from self._start_text(TEXT)
        if chunk.content:
            yield from self._add_text(TEXT, chunk.content)
        for citation in _entries(delta.get("citations")):
            yield from self._add_citation(citation)
        if isinstance(delta.get("refusal"), str):
            self._has_refusal = True
            yield from self._add_text(TEXT, delta["refusal"])
        for call in delta.get("tool_calls") or ():
            yield from self._add_call(call)
        if chunk.finish_reason == "stop" and self._stop_sequences:
            reason = chunk.extra.get("stop_reason")
            if reason is None and chunk.raw:
                # vLLM's: the sequence, or a token's id.
                reason = _decode_last_event(chunk.raw).choices[0].get("stop_reason")
            self._stop_sequence = reason if reason in self._stop_sequences else None

    def _add_text(self, kind: str, text: str) -> Iterator[Event]:
        block = self._blocks[-1] if self._blocks else None
        if block is None or block.kind != kind or block.head.get("signature"):
            block = yield from self._start_text(kind)
        yield from self._add_piece(block, text)

    def _start_text(self, kind: str) -> Generator[Event, None, OpenBlock]:
        head = {"type": kind, kind: "", **({"signature": ""} if kind == THINKING else {})}
        block = OpenBlock(kind, len(self._blocks), head)
        yield from self._start(block)
        return block

    def _add_detail(self, detail: Any) -> Iterator[Event]:
        """Adds an entry of `reasoning_details`: the signature of the thinking so far, or encrypted thinking.

        Ignores entries whose format is not `ANTHROPIC_THINKING`.
        """
        if not isinstance(detail, dict) or detail.get("format") != ANTHROPIC_THINKING:
            return
        if detail.get("type") == ENCRYPTED:
            head = {"type": REDACTED, "data": detail.get("data")}
            yield from self._start(OpenBlock(REDACTED, len(self._blocks), head))
        elif detail.get("type") == SIGNED:
            block = self._blocks[-1] if self._blocks else None
            if block is None or block.kind != THINKING or block.head["signature"]:
                block = yield from self._start_text(THINKING)  # its text is not shown
            block.head["signature"] = detail.get("signature")
            if block is self._open:
                delta = {"type": "signature_delta", "signature": block.head["signature"]}
                yield {"type": "content_block_delta", "index": block.index, "delta": delta}

    def _add_citation(self, citation: Any) -> Iterator[Event]:
        """Adds a citation to the last block. Ignores it if that is no text, or if the citation has no type, unlike
        those of Anthropic's API.
        """
        block = self._blocks[-1] if self._blocks else None
        if not isinstance(citation, dict) or "type" not in citation or block is None or block.kind != TEXT:
            return
        block.head.setdefault("citations", []).append(citation)
        if block is self._open:
            delta = {"type": "citations_delta", "citation": citation}
            yield {"type": "content_block_delta", "index": block.index, "delta": delta}

    def _cite(self, sources: Sequence[Passage]) -> Iterator[Event]:
        """Adds the sources to the last block, unless the engine has added citations itself."""
        if sources and self._blocks and "citations" not in self._blocks[-1].head:
            for citation in message_citations(sources):
                yield from self._add_citation(citation)

    def _add_call(self, delta: Mapping[str, Any]) -> Iterator[Event]:
        number, function = min(delta.get("index", 0), MAX_TOOL_CALLS - 1), delta.get("function") or {}
        block = self._calls.get(number)
        if block is None:
            index = len(self._blocks)
            id = delta.get("id") or f"toolu_{self._head['id']}_{index}"
            head: dict[str, Any] = {"type": TOOL_USE, "id": id, "name": function.get("name") or "", "input": {}}
            block = self._calls[number] = OpenBlock(TOOL_USE, index, head)
            yield from self._start(block)
        if function.get("arguments"):
            yield from self._add_piece(block, function["arguments"])

    def _start(self, block: OpenBlock) -> Iterator[Event]:
        """Adds a block, and yields the events that end the open block and start this one. If the open block is a tool
        call, yields nothing, and the new block is streamed at the end: engines may interleave calls.
        """
        self._blocks.append(block)
        if self._open is None or self._open.kind != TOOL_USE:
            if self._open is not None:
                yield self._open.stop()
            self._open, self._text_index = block, block.index if block.kind == TEXT else -1
            yield block.start()

    def _add_piece(self, block: OpenBlock, piece: str) -> Iterator[Event]:
        if block is not self._open or not self._is_streamed:
            block.pieces.append(piece)
        if block is self._open:
            yield block.delta(piece)

    def _end_blocks(self) -> Iterator[Event]:
        if self._open is None:
            return
        yield self._open.stop()
        for block in self._blocks[self._open.index + 1 :]:
            yield block.start()
            if block.pieces:
                yield block.delta("".join(block.pieces))
            yield block.stop()

    def _stop_fields(self, finish_reason: str) -> dict[str, Any]:
        reason = "refusal" if self._has_refusal else STOP_REASONS.get(finish_reason)
        if reason is None and self._calls:
            reason = TOOL_USE
        if reason is None and self._stop_sequence is not None:
            return {"stop_reason": "stop_sequence", "stop_sequence": self._stop_sequence}
        return {"stop_reason": reason or "end_turn", "stop_sequence": None}


def _encode(event: Event) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), to_json(event))


def _entries(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()  # engines of other dialects may send any value


def _to_input(arguments: str) -> dict[str, Any]:
    """Returns a tool call's arguments as an object; {"arguments": TEXT} if they are no JSON object, as when cut off."""
    try:
        decoded = msgspec.json.decode(arguments or "{}")
    except (msgspec.MsgspecError, RecursionError):
        decoded = None
    return decoded if isinstance(decoded, dict) else {"arguments": arguments}


def _usage(usage: Usage, of_delta: bool = False) -> dict[str, Any]:
    """Returns the usage in Anthropic's format, whose `input_tokens` leave out tokens read from or written to a cache.

    `of_delta` is set for the usage of a stream's `message_delta`, which has no `cache_creation`.
    """
    details = usage.details or NO_DETAILS
    written = details.cache_write + details.cache_write_1h
    counts: dict[str, Any] = {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }
    if written and not of_delta:
        counts["cache_creation"] = {
            "ephemeral_5m_input_tokens": details.cache_write,
            "ephemeral_1h_input_tokens": details.cache_write_1h,
        }
    return counts
