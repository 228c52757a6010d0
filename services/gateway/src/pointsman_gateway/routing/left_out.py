"""Notes in the decision which fields of a request are not sent to the chosen path's engines."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Protocol

from pointsman_gateway.domain import Path, Request

NEUTRAL = (None, False, "auto", "default")
"""Values that mean the same as leaving the field out."""
MAX_NAMES = 32
"""A note names at most so many fields, and counts the others."""


class Format(Protocol):
    """The format of an engine's requests."""

    def unsent(self, request: Request) -> Set[str]:
        """Returns the names of the request's fields that cannot be sent in this format."""
        ...


@dataclass(frozen=True, slots=True)
class ModelFields:
    """The fields of requests that the engines of a model do not accept."""

    ignored: Set[str] = frozenset()
    """Accepted from clients, and not sent to at least one engine."""
    formats: tuple[Format, ...] = ()
    """The request formats of the model's engines, each once."""


NO_FIELDS = ModelFields()


class LeftOutFields:
    """Finds the fields of a request that are not sent to the engines of a path's model."""

    def __init__(self, models: Mapping[str, ModelFields] = {}) -> None:
        """Takes the fields by model; a model without an entry ignores none."""
        self._models = models

    def notes(self, request: Request, path: Path) -> tuple[str, ...]:
        """Returns one note with the names of the request's fields that are not sent; empty if all are sent. `path` is
        the one chosen first, also if another one answers after a failure. If the model has several engines, a field
        counts that at least one of them does not get.
        """
        sampling = request.sampling
        fields = sampling.extra
        has_own = request.user or request.metadata
        if not (fields or sampling.anthropic or request.uncommon or has_own or sampling.seed is not None):
            return ()
        of = self._models.get(path.model, NO_FIELDS)
        names = {name for name in of.ignored & fields.keys() if fields[name] not in NEUTRAL}
        for one in of.formats:
            names |= one.unsent(request)
        if request.user:
            names.add("user")
        if request.metadata:
            names.add("metadata")
        return (f"left out: {_listed(sorted(names))}",) if names else ()


def _listed(names: list[str]) -> str:
    more = [f"and {len(names) - MAX_NAMES} more"] if len(names) > MAX_NAMES else []
    return ", ".join([*names[:MAX_NAMES], *more])
