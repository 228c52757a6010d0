"""Environment variables in YAML: `${NAME}` and `${NAME:-DEFAULT}` in scalars; `$${` is a literal `${`.

They are replaced after parsing, so that a value cannot change the document's structure, whatever characters it has.
While the document is parsed, a mark stands for each of them: braces would end a scalar inside `{ }` and `[ ]`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

_VARIABLE = re.compile(
    r"\$(?P<literal>\$\{(?:[A-Z0-9_]+(?::-[^}]*)?\})?)"
    r"|\$\{(?P<name>[A-Z0-9_]+)(?::-(?P<default>[^}]*))?\}"
)
_MARK = re.compile("\ue000([0-9]+)\ue001")
"""Characters of Unicode's private use around the number of a variable."""
_TEXT = "tag:yaml.org,2002:str"
_TYPED = frozenset(f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "null"))


class UnsetVariable(yaml.YAMLError):
    """A variable that is not set and has no default."""

    def __init__(self, name: str, line: int) -> None:
        super().__init__(f"line {line} needs the environment variable {name}, which is not set")
        self.name = name
        self.line = line
        """Counted from 1."""


@dataclass(frozen=True, slots=True)
class _Reference:
    written: str
    literal: str | None
    """What `$${` and perhaps `NAME}` stand for; None for a variable."""
    name: str
    default: str | None
    line: int


class Variables:
    """The variables of one document."""

    def __init__(self, values: Mapping[str, str], unset: str | None) -> None:
        """Takes in `unset` the value of variables that are neither set nor have a default; None: UnsetVariable."""
        self._values = values
        self._unset = unset
        self._found: list[_Reference] = []

    def mark(self, text: str) -> str:
        """Returns the document's text with a mark for each variable."""
        line, end = 1, 0

        def to_mark(match: re.Match[str]) -> str:
            nonlocal line, end
            line += text.count("\n", end, match.start())
            end = match.start()
            self._found.append(_Reference(match[0], match["literal"], match["name"], match["default"], line))
            return f"\ue000{len(self._found) - 1}\ue001"

        return _VARIABLE.sub(to_mark, text)

    def unmark(self, text: str) -> str:
        """Returns a text with the variables as they are written, instead of their marks."""
        return _MARK.sub(lambda match: self._found[int(match[1])].written, text)

    def substitute(self, nodes: Iterable[yaml.ScalarNode], resolver: yaml.resolver.Resolver) -> None:
        """Replaces the marks in the scalars; a scalar that is one variable without quotes gets the value's type.

        That type is a number, true, false or null; everything else is a text. Raises UnsetVariable.
        """
        for node in nodes:
            whole = _MARK.fullmatch(node.value)
            if whole is None and "\ue000" not in node.value:
                continue
            node.value = _MARK.sub(self._value, node.value)
            if whole and self._found[int(whole[1])].literal is None and node.style is None and node.tag == _TEXT:
                resolved: str = resolver.resolve(yaml.ScalarNode, node.value, (True, False))  # type: ignore[no-untyped-call]  # of PyYAML
                node.tag = resolved if resolved in _TYPED and ":" not in node.value else _TEXT

    def _value(self, mark: re.Match[str]) -> str:
        found = self._found[int(mark[1])]
        if found.literal is not None:
            return found.literal
        value = self._values.get(found.name, self._unset if found.default is None else found.default)
        if value is None:
            raise UnsetVariable(found.name, found.line)
        return value


def escape(value: Any) -> Any:
    """Returns data in whose texts every `${` is literal, for data of others that is written to a file."""
    if isinstance(value, str):
        return value.replace("${", "$${")
    if isinstance(value, dict):
        return {escape(key): escape(one) for key, one in value.items()}
    return [escape(one) for one in value] if isinstance(value, list) else value
