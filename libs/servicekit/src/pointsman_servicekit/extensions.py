"""Finds an implementation by name: built in, from an installed package's entry point, or as `module:attribute`.

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
    """Returns the object that `name` stands for: built in, published by a package, or `module:attribute`.

    `builtins` maps short names to `module:attribute`; a module is imported only if its name is asked for, so optional
    dependencies stay optional. `group` is the entry point group that users publish in. `setting` is what the error
    messages call the place where the name was written. A built-in name wins over an entry point of the same name.

    Raises FailedPrecondition for an unknown name, or an object that cannot be imported.
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
    """Returns the entry points of the packages on `path`, from name to `module:attribute`; reading them takes 20 ms."""
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
    """Extensions of one kind: built-in ones, those of installed packages, and any class as `module:attribute`."""

    kind: str
    """ "policy", "strategy" or "validator", for error messages."""
    group: str
    """The entry point group in which packages publish their extensions."""
    builtins: Mapping[str, str]
    """From name to `module:attribute`. A module is imported when its name is first used."""
    method: str
    """A method that every extension of this kind has."""

    def find(self, name: str) -> Any:
        """Returns the extension's class by its name; raises ValueError if there is no such class or it cannot be
        imported.
        """
        try:
            found = load_extension(name, setting=f"the {self.kind}", group=self.group, builtins=self.builtins)
        except PointsmanError as error:
            raise ValueError(error.message) from error
        if not (isinstance(found, type) and callable(getattr(found, self.method, None))):
            raise ValueError(f"{name} is no {self.kind}: it must be a class with a method '{self.method}'")
        return found
