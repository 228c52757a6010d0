"""Finds extensions by name: built-in extensions, entry points of installed packages, and any object as
`module:attribute`.

A `Registry` describes all extensions of one kind.
"""

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any

from pointsman_servicekit.errors import FailedPrecondition, PointsmanError


def load_extension(name: str, *, setting: str, group: str, builtins: Mapping[str, str]) -> Any:
    """Imports and returns the object called `name`: a key of `builtins`, else an entry point, or `module:attribute`.

    `builtins` maps names to `module:attribute`; only the module of `name` is imported, so the dependencies of other
    extensions need not be installed. `group` is the group of entry points in which packages publish extensions.
    `setting` is the setting that has the value `name`, for error messages.

    Raises FailedPrecondition for an unknown name ("unknown_extension") and for an object that cannot be imported
    ("extension_not_importable").
    """
    if ":" in name:
        return _import_attribute(name, name, setting)
    if name in builtins:
        return _import_attribute(builtins[name], name, setting)
    published = _published(group, tuple(sys.path))
    if name in published:
        return _import_attribute(published[name], name, setting)
    known = ", ".join(sorted({*builtins, *published}))
    raise FailedPrecondition(
        f"{setting} is {name!r}, which is unknown; use one of {known}, or module:attribute",
        code="unknown_extension",
        param=setting,
    )


@lru_cache(maxsize=32)
def _published(group: str, path: tuple[str, ...]) -> Mapping[str, str]:
    """Returns the entry points of a group, from name to `module:attribute`.

    Reading them takes 20 ms, so they are cached; `path` is `sys.path`, after a change of which they are read again.
    """
    return {point.name: point.value for point in entry_points(group=group)}


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


@dataclass(frozen=True, slots=True)
class Registry:
    """Finds the extensions of one kind, such as all policies.

    An extension is a built-in one, an entry point of an installed package, or any class that is named as
    `module:attribute`.
    """

    kind: str
    """The kind of the extensions, such as "policy", for error messages."""
    group: str
    """The entry point group in which packages publish their extensions."""
    builtins: Mapping[str, str]
    """Name of a built-in extension -> its `module:attribute`. The module is imported when the extension is
    requested."""
    method: str
    """The name of a method that every extension of this kind must have."""

    def find(self, name: str) -> Any:
        """Returns the class of an extension by its name, or by `module:attribute`.

        Raises ValueError if the name is unknown, the class cannot be imported, or the object is not a class with the
        required method.
        """
        try:
            found = load_extension(name, setting=f"the {self.kind}", group=self.group, builtins=self.builtins)
        except PointsmanError as error:
            raise ValueError(error.message) from error
        if not (isinstance(found, type) and callable(getattr(found, self.method, None))):
            raise ValueError(f"{name} is no {self.kind}: it must be a class with a method '{self.method}'")
        return found
