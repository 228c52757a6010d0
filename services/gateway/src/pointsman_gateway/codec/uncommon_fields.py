"""Finds fields in a chat's messages and parameters that not every engine accepts, such as the `detail` of an image.

`engines/dialects/sent_fields` lists which of these fields are sent to the engines of each API format.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Protocol

from pointsman_gateway.codec.media import MEDIA_PARTS
from pointsman_gateway.domain.request import GivenField

MESSAGE_FIELDS = frozenset({"role", "content", "tool_calls", "tool_call_id", "function_call", "type"})
"""Fields of a message that are sent to every engine in some form. `type` is included because it only says that the
object is a message."""
REASONING = frozenset({"reasoning", "reasoning_content"})
CALL_FIELDS = frozenset({"id", "type", "function", "index"})
FUNCTION_FIELDS = frozenset({"name", "description", "parameters", "strict"})
FORMAT_FIELDS = frozenset({"schema", "strict"})
"""Fields of a `json_schema` response format that are sent to every engine. `name` is left out, because Anthropic's API
has no field for it."""

MAX_NAME_CHARACTERS = 64
ANTHROPIC_TOOLS = "Anthropic's own tools"
NOTHING: frozenset[GivenField] = frozenset()


class Undeclared(Protocol):
    """Interface of a decoded object, such as a pydantic model, that also keeps fields that its class does not
    declare.
    """

    @property
    def model_extra(self) -> Mapping[str, Any] | None:
        """Returns the fields that the object's class does not declare; None or empty if there are none."""
        ...


class ChatMessage(Undeclared, Protocol):
    @property
    def role(self) -> str: ...

    @property
    def content(self) -> Any: ...


def given_fields(kind: str, given: Any, known: Collection[str]) -> Iterator[GivenField]:
    """Yields a pair (`kind`, name) for each field of `given` that is set and whose name is not in `known`.

    A value of null, false, 0 or empty counts as not set. Yields nothing if `given` is not an object. `kind` is the kind
    of the object, such as "tool_calls". A name that is no identifier, or has more than `MAX_NAME_CHARACTERS`
    characters, is yielded as "others", because the names are stored in the notes of the request's decision.
    """
    if isinstance(given, Mapping):
        for name, value in given.items():
            if name not in known and value:
                yield kind, name if name.isidentifier() and len(name) <= MAX_NAME_CHARACTERS else "others"


def unsent_fields(kind: str, given: Any, known: Collection[str]) -> Iterator[GivenField]:
    """Yields a pair ("", "NAME of KIND") for each field of `given` that is set and whose name is not in `known`.

    The empty text means that the field is sent to no engine. `kind` is the kind of the object `given`.
    """
    return (("", f"{name} of {kind}") for _, name in given_fields(kind, given, known))


def of_chat(
    messages: Iterable[ChatMessage], parameters: Mapping[str, Any], stream_options: Undeclared | None
) -> frozenset[GivenField]:
    """Returns the fields in a chat's messages, tools, response format and stream options that not every engine accepts.

    `parameters` are the fields of the request's body that the body's class does not declare.
    """
    found: set[GivenField] = set()
    if stream_options is not None:
        extra = given_fields("", stream_options.model_extra, ())
        found.update(("", f"stream_options.{name}") for _, name in extra)
    for message in messages:
        if message.model_extra:
            found.update(of_message(message.role, message.model_extra))
        if isinstance(message.content, list):
            for part in message.content:
                found.update(_of_part(part))
    if parameters:
        found.update(of_parameters(parameters))
    return frozenset(found)


def of_message(role: str, fields: Mapping[str, Any]) -> Iterator[GivenField]:
    """Yields the fields of a message and its tool calls that not every engine accepts. `fields` are the message's
    fields without role and content.
    """
    known = MESSAGE_FIELDS
    if role == "function":
        known |= {"name"}  # it is the call's id
    if fields.get("reasoning_details"):
        known |= REASONING  # the details have the text too, or sign it
    yield from given_fields("messages", fields, known)
    calls = fields.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        yield from given_fields("tool_calls", call, CALL_FIELDS)


def _of_part(part: Mapping[str, Any]) -> Iterator[GivenField]:
    kind = part.get("type")
    if isinstance(kind, str):
        yield from given_fields("parts", part, ("type", kind))
        if kind in MEDIA_PARTS:
            yield from given_fields("parts", part.get(kind), ("url", "data", "format", "file_data", "filename"))


def of_parameters(parameters: Mapping[str, Any]) -> Iterator[GivenField]:
    """Yields the fields in a body's `tools` and `response_format` that not every engine accepts."""
    tools = parameters.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        function = tool.get("function") if isinstance(tool, Mapping) else None
        yield from given_fields("functions", function, FUNCTION_FIELDS)
        yield from given_fields("functions", tool, ("type", "function"))
    asked = parameters.get("response_format")
    if isinstance(asked, Mapping):
        yield from given_fields("response_format", asked, ("type", "json_schema"))
        yield from given_fields("response_format", asked.get("json_schema"), FORMAT_FIELDS)
