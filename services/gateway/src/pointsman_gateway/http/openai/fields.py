"""Fields and bodies of requests whose validation stops at its first error.

Pydantic otherwise makes an error for each wrong element and unknown name, which takes about 10 microseconds and a
kilobyte each.
"""

from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import msgspec
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

Element = TypeVar("Element")

Elements = Annotated[list[Element], Field(fail_fast=True)]
Entries = Annotated[dict[str, Element], Field(fail_fast=True)]


class KnownNames(BaseModel):
    """A body that refuses names it does not know: a misspelt one would otherwise be ignored."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _with_one_unknown_name(cls, data: Any) -> Any:
        """Drops all unknown names but the first, for which pydantic then makes its error."""
        if not isinstance(data, dict):
            return data
        known = {name: data[name] for name in cls.model_fields if name in data}
        unknown = next((name for name in data if name not in cls.model_fields), None)
        return known if unknown is None else {unknown: data[unknown], **known}


_BOUNDS = ("ge", "gt", "le", "lt")


def strict_struct(model: type[BaseModel]) -> type[msgspec.Struct]:
    """With the model's fields, defaults and bounds. It takes no other fields, no untyped values, and converts nothing.

    An instance has `model_extra`, which is None.
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
        kinds = [_strict_type(argument) for argument in arguments if not _holds_any(argument)]
        return Union[tuple(kinds)]  # noqa: UP007  # of a list of types
    if origin is list:
        return list[_strict_type(arguments[0])]  # type: ignore[misc]  # known at run time only
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return strict_struct(annotation)
    return annotation


def _holds_any(annotation: Any) -> bool:
    return annotation is Any or any(map(_holds_any, get_args(annotation)))


def _bounded(kind: Any, bounds: list[Any]) -> Any:
    named = {name: getattr(bound, name) for bound in bounds for name in _BOUNDS if hasattr(bound, name)}
    if isinstance(named.get("lt"), int):
        named["le"] = named.pop("lt") - 1  # msgspec's bounds are 64-bit integers
    return Annotated[kind, msgspec.Meta(**named)] if named else kind
