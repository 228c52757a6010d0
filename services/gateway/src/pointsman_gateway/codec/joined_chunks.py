"""Joins chunks (pieces) of an answer that arrive together. It is used for answers that are not streamed, to save work
for each chunk.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import msgspec

from pointsman_gateway.codec.choices import REASONING_KEYS
from pointsman_gateway.domain import Chunk, Chunks

Kind = tuple[Any, ...]
"""Identifies the text to which a chunk adds. It is (choice, "content"), (choice, name of a reasoning field), or
(choice, "tool_calls", index of the tool call) for the arguments of a tool call."""

_CALL_FIELDS = frozenset({"index", "id", "type", "function"})
_FUNCTION_FIELDS = frozenset({"name", "arguments"})


class ChunkJoiner:
    """Joins consecutive chunks of one answer that add to the same text, such as the content of one choice.

    To save memory, it keeps `Chunk.raw` (the engine's event) only for the first event of the answer and for events that
    end a choice. In all other chunks `raw` becomes empty.
    """

    def __init__(self) -> None:
        self._has_raw = False

    def join(self, chunks: Chunks) -> Chunks:
        """Returns the chunks, with consecutive chunks joined if they add to the same text. The `event_count` of a
        joined chunk is the sum over the chunks it replaces.
        """
        if len(chunks) == 1:
            return (self._with_needed_raw(chunks[0], chunks[0].raw),)
        joined = []
        for kind, group in groupby(chunks, _kind):
            if kind is None:
                joined += [self._with_needed_raw(chunk, chunk.raw) for chunk in group]
            else:
                run = list(group)
                raw = next((chunk.raw for chunk in run if chunk.raw), b"")
                joined.append(self._with_needed_raw(_joined(kind, run), raw))
        return tuple(joined)

    def _with_needed_raw(self, chunk: Chunk, raw: bytes) -> Chunk:
        is_needed = bool(chunk.finish_reason) or not self._has_raw
        self._has_raw = self._has_raw or bool(raw)
        kept = raw if is_needed else b""
        return chunk if kept == chunk.raw else msgspec.structs.replace(chunk, raw=kept)


def _kind(chunk: Chunk) -> Kind | None:
    """Returns which text the chunk adds to. Returns None if it adds to no text or to several texts, or has other data,
    such as a finish reason.
    """
    if chunk.finish_reason or chunk.usage is not None:
        return None
    if not chunk.extra:
        return (chunk.index, "content") if chunk.content else None
    delta = chunk.extra.get("delta")
    if chunk.content or len(chunk.extra) != 1 or not delta or len(delta) != 1:
        return None
    ((name, value),) = delta.items()
    if name in REASONING_KEYS and isinstance(value, str):
        return chunk.index, name
    if name == "tool_calls" and len(value) == 1 and _only_adds_arguments(value[0]):
        return chunk.index, name, value[0].get("index", 0)
    return None


def _only_adds_arguments(call: dict[str, Any]) -> bool:
    function = call.get("function")
    return (
        isinstance(function, dict)
        and call.keys() <= _CALL_FIELDS
        and function.keys() <= _FUNCTION_FIELDS
        and not call.get("id")
        and not function.get("name")
    )


def _joined(kind: Kind, run: Sequence[Chunk]) -> Chunk:
    """Joins consecutive chunks that add to the same text, which `kind` identifies."""
    first = run[0]
    if len(run) == 1:
        return first
    count, name = sum([chunk.event_count for chunk in run]), kind[1]
    if name == "content":
        content = "".join([chunk.content for chunk in run])
        return msgspec.structs.replace(first, content=content, event_count=count)
    values = [chunk.extra["delta"][name] for chunk in run]
    if name == "tool_calls":
        arguments = "".join([calls[0]["function"].get("arguments") or "" for calls in values])
        value: Any = [{**values[0][0], "function": {**values[0][0]["function"], "arguments": arguments}}]
    else:
        value = "".join(values)
    return msgspec.structs.replace(first, extra={"delta": {name: value}}, event_count=count)
