"""Registries that map an extension's name in the configuration to its class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pointsman_servicekit.errors import PointsmanError
from pointsman_servicekit.extensions import load_extension


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
        """Return the class of that name. Raises ValueError."""
        try:
            found = load_extension(name, setting=f"the {self.kind}", group=self.group, builtins=self.builtins)
        except PointsmanError as error:
            raise ValueError(error.message) from error
        if not (isinstance(found, type) and callable(getattr(found, self.method, None))):
            raise ValueError(f"{name} is no {self.kind}: it must be a class with a method '{self.method}'")
        return found
