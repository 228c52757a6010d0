"""Finds an implementation by name: built in, from an installed package's entry point, or as `module:attribute`."""

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from pointsman_servicekit.errors import FailedPrecondition


def load_extension(name: str, *, setting: str, group: str, builtins: Mapping[str, str]) -> Any:
    """Returns the object that `name` stands for.

    `builtins` maps short names to `module:attribute`; a module is imported only if its name is asked for, so optional
    dependencies stay optional. `group` is the entry point group that users publish in. `setting` is what the error
    messages call the place where the name was written. A built-in name wins over an entry point of the same name.

    Raises FailedPrecondition for an unknown name, or an object that cannot be imported.
    """
    if ":" in name:
        return _import_attribute(name, name, setting)
    if name in builtins:
        return _import_attribute(builtins[name], name, setting)
    published = {point.name: point.value for point in entry_points(group=group)}
    if name in published:
        return _import_attribute(published[name], name, setting)
    known = ", ".join(sorted({*builtins, *published}))
    raise FailedPrecondition(
        f"{setting} is {name!r}, which is unknown; use one of {known}, or module:attribute",
        code="unknown_extension",
        param=setting,
    )


def _import_attribute(path: str, name: str, setting: str) -> Any:
    module_name, _, attribute = path.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever a user's module raises while it is imported
        raise FailedPrecondition(
            f"{setting} is {name!r}, and {path} cannot be imported: {type(error).__name__}: {error}",
            code="extension_not_importable",
            param=setting,
        ) from error
    return found
