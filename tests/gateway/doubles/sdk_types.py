"""Builds samples of the types that SDKs send: objects with their required fields, and a value for any other field."""

import typing
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin

from openai._types import SequenceNotStr
from typing_extensions import is_typeddict

MEDIUM = "data:image/png;base64,AAAA"
PDF = "data:application/pdf;base64,AAAA"
VALUES: Mapping[str, Any] = {
    "image_url": MEDIUM,
    "file_data": PDF,
    "data": "AAAA",
    "url": "https://site.example/a",
    "file_url": "https://site.example/a.pdf",
    "arguments": '{"a": 1}',
    "namespace": "space",
    "media_type": "application/pdf",
}
"""Valid values of fields, by name, whose types allow more than the APIs accept."""
NEEDED: Mapping[str, Mapping[str, Any]] = {
    "FileFile": {"file_data": PDF},
    "ResponseInputImageParam": {"image_url": MEDIUM},
    "ResponseInputImageContentParam": {"image_url": MEDIUM},
    "ResponseInputFileParam": {"file_data": PDF},
    "ResponseInputFileContentParam": {"file_data": PDF},
}
"""By type, fields of which the APIs require one, although the type does not."""
FORMAT = {"type": "json_schema", "name": "a", "schema": {"type": "object"}}


def fields_of(kind: Any) -> Mapping[str, Any]:
    """Returns the types of a TypedDict's fields by their names."""
    return typing.get_type_hints(kind, include_extras=True)


def name_of(kind: Any) -> str:
    return str(kind.__name__)


def is_constant(hint: Any) -> bool:
    """Returns whether a type has only one value, such as a field `type` that distinguishes the members of a union."""
    hint = _bare(hint)
    if get_origin(hint) in (Union, UnionType):
        return all(one is type(None) or is_constant(one) for one in get_args(hint))
    return get_origin(hint) is Literal and len(get_args(hint)) == 1


def members(union: Any) -> Iterator[Any]:
    """Yields the TypedDicts of a union, including those of nested unions."""
    union = _bare(union)
    if is_typeddict(union):
        yield union
    elif get_origin(union) in (Union, UnionType):
        for one in get_args(union):
            yield from members(one)


def sample(kind: Any, **given: Any) -> dict[str, Any]:
    """Returns an object of a TypedDict with its required fields."""
    required = {name: value_of(hint, name) for name, hint in fields_of(kind).items() if _is_required(name, hint)}
    return required | dict(NEEDED.get(name_of(kind), {})) | given


def value_of(hint: Any, name: str = "") -> Any:
    """Returns a truthy value of a type."""
    hint = _bare(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if is_typeddict(hint):
        return sample(hint) or {one: value_of(of, one) for one, of in fields_of(hint).items()}
    if origin in (Union, UnionType):
        if name == "format" and any(map(is_typeddict, map(_bare, arguments))):
            return FORMAT
        kinds = [one for one in arguments if one is not type(None)]
        return value_of(next((one for one in kinds if _bare(one) is str), kinds[0]), name)
    if origin is Literal:
        return next(one for one in reversed(arguments) if one)
    if hint is str or hint is object:
        return VALUES.get(name, f"the {name}")
    if hint in (bool, int, float):
        return hint(1)
    if _is_list(origin):
        return [value_of(arguments[0], name)]
    return {"key": "value"}


def _is_list(origin: Any) -> bool:
    return origin in (list, SequenceNotStr) or getattr(origin, "__name__", "") in ("Iterable", "Sequence")


def _is_required(name: str, hint: Any) -> bool:
    return get_origin(hint) is Required or name == "type"


def _bare(hint: Any) -> Any:
    while get_origin(hint) in (Required, NotRequired, Annotated):
        hint = get_args(hint)[0]
    return hint
