"""Field types and base classes of request bodies, their decoding, and their errors.

The types stop validating a list or an object at its first error. Without this stop, pydantic would create an error for
each wrong element and unknown name, which costs about 10 microseconds and a kilobyte each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import msgspec
from pointsman_servicekit.errors import InvalidArgument
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticUndefined

from pointsman_gateway.codec.json_body import decode_json

MAX_LOCATION_CHARACTERS = 200
"""Maximum number of characters of a wrong field's location in an error message. The limit is needed because the field
names in a location may be as long as the body."""

Element = TypeVar("Element")
Body = TypeVar("Body", bound=BaseModel)

FailFastList = Annotated[list[Element], Field(fail_fast=True)]
FailFastDict = Annotated[dict[str, Element], Field(fail_fast=True)]

_TokenIds = FailFastList[Annotated[int, Field(strict=True, ge=0, lt=2**31)]]

_NO_OBJECT = frozenset({"dict_type", "model_type", "model_attributes_type"})
_BOUNDS = ("ge", "gt", "le", "lt")


@dataclass(frozen=True)
class Expected:
    """Annotates a union type, so that pydantic reports one error ("Input should be" and `what`) and not one for
    each of its types.
    """

    what: str
    """The accepted values, as in "a text, or a list of objects"."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return {
            **handler(source),
            "custom_error_type": "expected",
            "custom_error_message": f"Input should be {self.what}",
        }


TEXTS_OR_TOKENS = Expected("a text, a list of texts, a list of token ids, or a list of such lists")
TextsOrTokens = Annotated[str | FailFastList[str] | _TokenIds | FailFastList[_TokenIds], TEXTS_OR_TOKENS]
TextOrList = Annotated[str | FailFastList[Element], Expected("a text, or a list of objects")]
StopSequences = Annotated[str | FailFastList[str], Expected("a text, or a list of texts")]


class StrictBody(BaseModel):
    """The base of bodies that reject undeclared fields, since a misspelt field would otherwise be ignored."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _keep_one_unknown_name(cls, data: Any) -> Any:
        """Drops all undeclared fields except the first, for which pydantic then creates its error."""
        if not isinstance(data, dict):
            return data
        known = {name: data[name] for name in cls.model_fields if name in data}
        unknown = next((name for name in data if name not in cls.model_fields), None)
        return known if unknown is None else {unknown: data[unknown], **known}


def decode_body(kind: type[Body], body: bytes) -> Body:
    """Decodes a JSON body, which `check_body` has accepted, and validates it as the pydantic model `kind`.

    Raises InvalidArgument for the first error, also for an empty body. pydantic's own JSON decoder is not used, because
    it needs more memory: 32 bytes for each value, in addition to Python's objects.
    """
    data = decode_json(body) if body else None
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise invalid_field(error.errors(include_url=False)[0]) from error


def bad_parameter(message: str, param: str) -> InvalidArgument:
    return InvalidArgument(message, code="bad_parameter", param=param)


def string_in(fields: Mapping[str, Any], name: str, where: str) -> str:
    """Returns the field `name` of `fields`; raises InvalidArgument ("bad_parameter") unless it is a string.

    `where` is the location of `fields` in the body, such as "tools[0]", for the error.
    """
    value = fields.get(name)
    if not isinstance(value, str):
        raise bad_parameter(f"{where}.{name} must be a string", f"{where}.{name}")
    return value


def invalid_field(item: Any) -> InvalidArgument:
    """Returns the error for a request in which pydantic found something invalid.

    `item` is one dict of pydantic's `ValidationError.errors()`. The error's code is "bad_json" if the body is not JSON,
    otherwise "bad_parameter". Its `param` names the field, such as "messages[0].role", and is cut to
    `MAX_LOCATION_CHARACTERS`; it is None if the body as a whole is invalid.
    """
    parts = (f"[{part}]" if isinstance(part, int) else f".{part[:MAX_LOCATION_CHARACTERS]}" for part in item["loc"])
    location = "".join(parts).removeprefix(".")[:MAX_LOCATION_CHARACTERS]
    location = location.encode("utf-8", "backslashreplace").decode()
    if item["type"] == "json_invalid":
        return InvalidArgument(f"the body is not JSON: {item['ctx']['error']}", code="bad_json")
    problem = "Input should be an object" if item["type"] in _NO_OBJECT else item["msg"]
    message = f"'{location}': {problem}" if location else problem
    return InvalidArgument(message, code="bad_parameter", param=location or None)


def strict_struct(model: type[BaseModel]) -> type[msgspec.Struct]:
    """Returns a msgspec struct with the fields, defaults and numeric bounds of a pydantic model. JSON is decoded to it
    several times faster than to the model.

    The struct rejects undeclared fields. Members of a union that contain `Any` are left out, so their values are
    rejected too. Its `model_extra` is always None.
    """
    fields = []
    for name, field in model.model_fields.items():
        kind = _strict_type(Annotated[field.annotation, field])
        fields.append((name, kind) if field.default is PydanticUndefined else (name, kind, _default(field.default)))
    return msgspec.defstruct(model.__name__, fields, namespace={"model_extra": None}, forbid_unknown_fields=True)


def _default(default: Any) -> Any:
    return msgspec.field(default_factory=type(default)) if isinstance(default, list | dict) else default


def _strict_type(annotation: Any) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = [bound for one in arguments[1:] if isinstance(one, FieldInfo) for bound in one.metadata]
        return _bounded(_strict_type(arguments[0]), bounds)
    if origin in (Union, UnionType):
        kinds = [_strict_type(argument) for argument in arguments if not _contains_any(argument)]
        return Union[tuple(kinds)]  # noqa: UP007  # the members are only known at run time
    if origin is list:
        return list[_strict_type(arguments[0])]  # type: ignore[misc]  # known at run time only
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return strict_struct(annotation)
    return annotation


def _contains_any(annotation: Any) -> bool:
    some = all if get_origin(annotation) in (Union, UnionType) else any  # of a union, the other members are left
    return annotation is Any or some([_contains_any(argument) for argument in get_args(annotation)])


def _bounded(kind: Any, bounds: list[Any]) -> Any:
    named = {name: getattr(bound, name) for bound in bounds for name in _BOUNDS if hasattr(bound, name)}
    if isinstance(named.get("lt"), int):
        named["le"] = named.pop("lt") - 1  # msgspec's bounds are 64-bit integers
    return Annotated[kind, msgspec.Meta(**named)] if named else kind
