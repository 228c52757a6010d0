"""Estimates how much work a JSON Schema can cause, before the schema is compiled.

jsonschema_rs compiles the target of a `$ref` in place of the `$ref`, up to the first recursion, and evaluates a
recursive `$ref` once for each value. The work of compilation and evaluation is therefore limited by the number of
subschemas after this expansion, which is counted here.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import unquote

from pointsman_gateway.validation.pattern_states import pattern_states

MAX_SUBSCHEMAS = 1_000
"""Maximum number of subschemas in a schema, after each `$ref` was replaced by its target."""
MAX_SCHEMA_DEPTH = 100
"""Maximum number of levels of subschemas in a schema, after each `$ref` was replaced by its target."""
MAX_PATTERNS = 20
MAX_PATTERN_CHARACTERS = 1_000
MAX_PATTERN_STATES = 1_500
"""Maximum number of states in the automata of all patterns of a schema, so that compiling and searching take limited
time."""

COMPARISON_STEPS = 10
"""Steps that `minimum`, `maximum` and their exclusive forms count as, since numbers may have many digits."""
MULTIPLE_STEPS = 250
UNIQUE_STEPS = 10
RECURSIVE_UNIQUE_STEPS = 640
"""Number of steps that `uniqueItems` counts as in a schema with a recursive `$ref`. There it reads all values in an
array, and reads the values of nested arrays again for each level."""

Name = str | None
"""The name of the innermost property that contains a value; None stands for properties of any name."""

_UNLIMITED = ("unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef", "dependencies")
"""Keywords whose work is not limited by the number of subschemas."""


class TooMuchWork(ValueError):
    """Raised if a JSON Schema could take too much work to compile or to check values by; the message says why."""


@dataclass(frozen=True, slots=True)
class SchemaWork:
    """An estimate of how much work it takes to check values by one JSON Schema.

    The work for a value depends on the property that contains it: keys of `steps` and `pattern_states` are the names of
    the innermost properties.
    """

    steps: Mapping[Name, int]
    """Number of keywords to evaluate for one value, by the name of the property that contains the value. Each keyword
    takes about 100 ns."""
    pattern_states: Mapping[Name, int]
    """Number of states of the patterns that search a value if it is a string, by the name of the property that contains
    the value. Each state takes up to 25 ns for each character."""
    alternatives: int
    """Number of subschemas of `anyOf` and `oneOf`. Each of them has an error of its own, which contains the value."""
    recursions: int
    """Number of `$ref`s in the schema that are recursive."""

    def steps_and_searches(self, value: Any, max_steps: int) -> tuple[int, int]:
        """Returns how much work it takes to check a value, as (steps, searches).

        Steps are keywords to evaluate. Searches are the sum, over all searches for a pattern, of the pattern's states
        times the characters of the searched text. Counting stops once the steps exceed `max_steps`; both results are
        then too low.
        """
        steps = searches = 0
        steps_for_all, states_for_all = self.steps.get(None, 0), self.pattern_states.get(None, 0)
        waiting: list[tuple[Name, Any]] = [("", value)]
        while waiting and steps <= max_steps:
            name, part = waiting.pop()
            steps += self.steps.get(name, 0) + steps_for_all
            if isinstance(part, dict):
                waiting.extend(part.items())
                searches += states_for_all * sum(map(len, part)) if states_for_all else 0
            elif isinstance(part, list):
                waiting.extend([(name, item) for item in part])
            elif isinstance(part, str):
                searches += (self.pattern_states.get(name, 0) + states_for_all) * len(part)
        return steps, searches


def measure(schema: Mapping[str, Any]) -> SchemaWork:
    """Returns an estimate of how much work it takes to check values by the schema.

    Raises TooMuchWork if it exceeds one of this module's `MAX_` constants, or if the schema uses a keyword or a `$ref`
    whose work cannot be limited.
    """
    walk = _Walk(schema)
    walk.visit(schema, _Place(None, 0, frozenset()))
    walk.steps[None] += walk.unique_items * (RECURSIVE_UNIQUE_STEPS if walk.recursions else UNIQUE_STEPS)
    return SchemaWork(walk.steps, walk.pattern_states, walk.alternatives, walk.recursions)


class _Place(NamedTuple):
    """Where a subschema is in a schema: the name of the property whose values it checks, and its depth."""

    name: Name
    depth: int
    followed: frozenset[int]
    """The targets (`id`) of the `$ref`s that lead to the subschema from another one for the same value."""


class _Walk:
    """Counts the work of a schema by a walk over its subschemas, as jsonschema_rs compiles them.

    The target of each `$ref` is visited in its place, up to the first recursion. `visit` raises TooMuchWork.
    """

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.steps: Counter[Name] = Counter()
        self.pattern_states: Counter[Name] = Counter()
        self.alternatives = self.recursions = self.unique_items = 0
        self._root = root
        self._subschemas = 0
        self._followed: set[int] = set()
        """The targets (`id`) of the `$ref`s that are being followed."""
        self._states: dict[str, int] = {}
        """The number of states by pattern."""
        self._pattern_characters = 0

    def visit(self, schema: Any, place: _Place) -> None:
        """Counts the work of a subschema at `place`, and of the subschemas within it.

        Raises TooMuchWork if a limit is exceeded, or if the work of a keyword cannot be limited.
        """
        if not isinstance(schema, dict):
            return
        self._subschemas += 1
        if self._subschemas > MAX_SUBSCHEMAS:
            raise TooMuchWork(f"it has over {MAX_SUBSCHEMAS:,} subschemas, counting each $ref's")
        if place.depth > MAX_SCHEMA_DEPTH:
            raise TooMuchWork(f"it is over {MAX_SCHEMA_DEPTH} levels deep, counting each $ref's")
        self.steps[place.name] += len(schema)
        for keyword, value in schema.items():
            if keyword in _VISITS:
                _VISITS[keyword](self, value, place)

    # -- one method for each kind of keyword

    def same_value(self, value: Any, place: _Place) -> None:
        inner = place._replace(depth=place.depth + 1)
        for part in value if isinstance(value, list) else (value,):
            self.visit(part, inner)

    def alternative(self, value: Any, place: _Place) -> None:
        self.alternatives += len(value) if isinstance(value, list) else 1
        self.same_value(value, place)

    def dependent(self, value: Any, place: _Place) -> None:
        if isinstance(value, dict):
            self.same_value(list(value.values()), place)

    def items(self, value: Any, place: _Place) -> None:
        self.same_value(value, _Place(place.name, place.depth, frozenset()))

    def other_properties(self, value: Any, place: _Place) -> None:
        self.visit(value, _Place(None, place.depth + 1, frozenset()))

    def properties(self, value: Any, place: _Place) -> None:
        if isinstance(value, dict):
            for name, part in value.items():
                self.visit(part, _Place(name, place.depth + 1, frozenset()))

    def named_by_pattern(self, value: Any, place: _Place) -> None:
        if isinstance(value, dict):
            for pattern, part in value.items():
                self.pattern_states[None] += self._states_of(pattern)
                self.other_properties(part, place)

    def pattern(self, value: Any, place: _Place) -> None:
        if isinstance(value, str):
            self.pattern_states[place.name] += self._states_of(value)

    def reference(self, value: Any, place: _Place) -> None:
        """Counts the work of the schema to which a `$ref` points; if that is being counted already, only counts a
        recursion.

        Raises TooMuchWork if a limit is exceeded, or if the `$ref` is invalid or refers to itself for the same value.
        """
        target = self._target(value)
        if id(target) in place.followed:
            raise TooMuchWork("a $ref refers to itself for the same value")
        if id(target) in self._followed:
            self.recursions += 1
            return
        self._followed.add(id(target))
        self.visit(target, _Place(place.name, place.depth + 1, place.followed | {id(target)}))
        self._followed.remove(id(target))

    def required(self, value: Any, place: _Place) -> None:
        self.steps[place.name] += len(value) if isinstance(value, list) else 0

    def comparison(self, value: Any, place: _Place) -> None:
        self.steps[place.name] += COMPARISON_STEPS

    def multiple(self, value: Any, place: _Place) -> None:
        self.steps[place.name] += MULTIPLE_STEPS

    def unique(self, value: Any, place: _Place) -> None:
        self.unique_items += 1

    def identifier(self, value: Any, place: _Place) -> None:
        if place.depth:
            raise TooMuchWork("it has an '$id' below its first level")

    def unlimited(self, value: Any, place: _Place) -> None:
        raise TooMuchWork(f"it uses one of {', '.join(_UNLIMITED)}")

    # -- their parts

    def _target(self, reference: Any) -> Any:
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise TooMuchWork("a $ref is no pointer such as '#/$defs/name'")
        target: Any = self._root
        for part in unquote(reference).split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict) and key in target:
                target = target[key]
            elif isinstance(target, list) and key.isdecimal() and int(key) < len(target):
                target = target[int(key)]
            else:
                raise TooMuchWork("a $ref refers to nothing")
        return target

    def _states_of(self, pattern: str) -> int:
        if pattern not in self._states:
            self._pattern_characters += len(pattern)
            if self._pattern_characters > MAX_PATTERN_CHARACTERS:
                raise TooMuchWork(f"its patterns have over {MAX_PATTERN_CHARACTERS:,} characters")
            if len(self._states) == MAX_PATTERNS:
                raise TooMuchWork(f"it has over {MAX_PATTERNS} patterns")
            self._states[pattern] = pattern_states(pattern)
            if sum(self._states.values()) > MAX_PATTERN_STATES:
                raise TooMuchWork(
                    f"its patterns are too complex: over {MAX_PATTERN_STATES:,} states with repetitions written out"
                )
        return self._states[pattern]


_VISITS: Mapping[str, Callable[[_Walk, Any, _Place], None]] = {
    **dict.fromkeys(("allOf", "not", "if", "then", "else"), _Walk.same_value),
    **dict.fromkeys(("anyOf", "oneOf"), _Walk.alternative),
    "dependentSchemas": _Walk.dependent,
    **dict.fromkeys(("items", "prefixItems", "contains"), _Walk.items),
    **dict.fromkeys(("additionalProperties", "additionalItems", "propertyNames"), _Walk.other_properties),
    "properties": _Walk.properties,
    "patternProperties": _Walk.named_by_pattern,
    "pattern": _Walk.pattern,
    "$ref": _Walk.reference,
    "required": _Walk.required,
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _Walk.comparison),
    "multipleOf": _Walk.multiple,
    "uniqueItems": _Walk.unique,
    "$id": _Walk.identifier,
    **dict.fromkeys(_UNLIMITED, _Walk.unlimited),
}
"""The function that counts the steps of a keyword, by the keyword. Keywords without a function take one step."""
