"""Frozen dataclasses of arrays and plain values to JSON and named arrays, and back; nothing in either can be run."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

ARRAY = "$array"
"""The key of the object that stands in the JSON where an array was."""


def pack(value: Any, arrays: dict[str, NDArray[Any]], name: str = "") -> Any:
    """JSON for the value; its arrays go into `arrays`, named by where they are."""
    if isinstance(value, np.ndarray):
        arrays[name] = value
        return {ARRAY: name}
    if dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value)]
        return {field: pack(getattr(value, field), arrays, f"{name}.{field}" if name else field) for field in fields}
    if isinstance(value, Mapping):
        return {key: pack(item, arrays, f"{name}.{key}") for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def unpack(shape: Any, value: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """The value of that type. Raises KeyError, TypeError or ValueError where the JSON does not fit it."""
    if isinstance(value, dict) and ARRAY in value:
        return arrays[value[ARRAY]]
    if isinstance(shape, types.UnionType):
        options = [option for option in typing.get_args(shape) if option is not type(None)]
        return None if value is None else unpack(options[0], value, arrays)
    if dataclasses.is_dataclass(shape):
        hints = typing.get_type_hints(shape)
        return typing.cast(Any, shape)(**{key: unpack(hints[key], item, arrays) for key, item in value.items()})
    origin = typing.get_origin(shape)
    if origin is tuple:
        return tuple(value)
    if origin is not None and issubclass(origin, Mapping):
        return {key: unpack(typing.get_args(shape)[1], item, arrays) for key, item in value.items()}
    return shape(value)
