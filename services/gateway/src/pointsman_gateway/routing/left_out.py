"""Says which fields of a request no engine gets, as a note of the decision."""

from collections.abc import Mapping, Set
from dataclasses import dataclass

from pointsman_gateway.domain import Path, Request

NEUTRAL = (None, False, "auto", "default")
"""Values that mean the same as leaving the field out."""
TOOLS, ANTHROPIC_TOOLS = "tools", "Anthropic's own tools"


@dataclass(frozen=True, slots=True)
class ModelFields:
    """What the engines of a model do with the fields of requests."""

    ignored: Set[str] = frozenset()
    """Accepted from clients, and not sent to at least one engine."""
    reads_anthropic: bool = False
    """Whether an engine has Anthropic's format, so that it gets the fields that others do not know."""


NO_FIELDS = ModelFields()


class LeftOutFields:
    """Finds the fields of a request that the engines of a path's model do not get."""

    def __init__(self, models: Mapping[str, ModelFields] = {}) -> None:
        """Takes the fields by model; a model without an entry ignores none."""
        self._models = models

    def notes(self, request: Request, path: Path) -> tuple[str, ...]:
        """Returns one note that names them, or none.

        The note is about the path that is chosen first, also if another one answers after a failure.
        """
        fields, native = request.sampling.extra, request.sampling.anthropic
        if not (fields or native or request.left_out):
            return ()
        of = self._models.get(path.model, NO_FIELDS)
        names = {*request.left_out, *(name for name in of.ignored & fields.keys() if fields[name] not in NEUTRAL)}
        if native and not of.reads_anthropic:
            names |= native.keys() - {TOOLS}  # other engines get those that are functions in their format
            if any(tool.get("type") not in (None, "custom") for tool in native.get(TOOLS, ())):
                names.add(ANTHROPIC_TOOLS)
        return (f"left out: {', '.join(sorted(names))}",) if names else ()
