"""Turns pydantic's errors about a configuration file into messages for users; unknown keys get a list of known ones."""

from collections.abc import Iterable
from pathlib import Path as FilePath
from typing import Any, get_origin

from pydantic import BaseModel

from pointsman_gateway.config.field_types import ExtensionConfig
from pointsman_gateway.config.tasks_file import FILE_TAG, ROWS_TAG


def explain(file: FilePath, shape: type[BaseModel], item: Any) -> str:
    """Returns a message for users about one error that pydantic has found in a configuration file.

    `item` is one dict of `ValidationError.errors()`, and `shape` the model by which the file was validated. The message
    names the file and, unless a check of the whole file has failed, the key at fault.
    """
    key = ".".join(str(part) for part in item["loc"] if part not in (FILE_TAG, ROWS_TAG))
    if item["type"] == "extra_forbidden":
        return f"{file}: unknown key '{key}'; known here: {', '.join(_known_keys(shape, item['loc'][:-1]))}"
    if item["type"] == "missing":
        return f"{file}: '{key}' is missing"
    if not key:  # a check of the whole file, which is too long to be shown
        return f"{file}: {item['msg'].removeprefix('Value error, ')}"
    return f"{file}: '{key}': {item['msg']} (it is {item['input']!r})"


def _known_keys(shape: Any, location: Iterable[str | int]) -> list[str]:
    """Returns the keys that are allowed at `location`, which is a path of keys and indexes in the model `shape`."""
    is_name = False
    """Whether the next part is a name that the user chose; it may be equal to a field's name."""
    for part in location:
        if isinstance(part, int) or is_name:
            is_name = False
            continue
        if isinstance(shape, type) and issubclass(shape, ExtensionConfig):
            shape = shape.registry.find(part).Options
            continue
        fields = getattr(shape, "model_fields", None)
        annotation = fields[part].annotation if fields and part in fields else shape
        is_name = get_origin(annotation) is dict
        shape = next((m for m in _models_in(annotation)), shape)
    return list(getattr(shape, "model_fields", {}))


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_in(argument)
