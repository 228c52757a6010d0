"""Lists, as a note on a routing decision, the fields of a request that the chosen model's engines do not get."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Protocol

from pointsman_gateway.domain import Path, Request

NEUTRAL = (None, False, "auto", "default")
"""Values with which a field has the same effect as if it were left out."""
MAX_NAMES = 32
"""Maximum number of fields that a note names; the note gives only the number of further fields."""


class Format(Protocol):
    """Interface of a wire format for requests to an engine, which may lack fields; `SentFields` implements it."""

    def unsent(self, request: Request) -> Set[str]:
        """Returns the names of the request's fields that are not sent in this format, apart from `user` and `metadata`,
        which are never sent.
        """
        ...


@dataclass(frozen=True, slots=True)
class ModelFields:
    """The fields of requests that are not sent to the engines (inference servers) of one model."""

    ignored: Set[str] = frozenset()
    """Names of parameters in `Sampling.extra` that at least one engine of the model does not get."""
    formats: tuple[Format, ...] = ()
    """The request formats of the model's engines, each once."""


NO_FIELDS = ModelFields()


class LeftOutFields:
    """Finds which fields of a request are not sent to engines, for each configured model."""

    def __init__(self, models: Mapping[str, ModelFields] = {}) -> None:
        """Takes the fields by model; the engines of a model without an entry get all fields."""
        self._models = models

    def notes(self, request: Request, path: Path) -> tuple[str, ...]:
        """Returns a tuple with one note such as "left out: seed, user"; empty if every field is sent.

        The note names the request's fields that at least one engine of the path's model does not get, at most
        `MAX_NAMES` of them. It names `user` and `metadata` whenever the request has them, since no engine gets them. It
        skips ignored parameters whose value is in `NEUTRAL`.
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
