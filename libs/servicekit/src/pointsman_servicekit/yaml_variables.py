"""Environment variables in the scalars of YAML: `${NAME}` or `${NAME:-DEFAULT}`; `$${` stands for a literal `${`.

A name has only A to Z, 0 to 9 and _ (any other `${...}` is text), and a default has no `}`. The default is for a
variable that is not set; an empty value stays empty. Variables are replaced after the document was parsed, so that no
value can change its structure.
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
"""A mark: the number of a variable between two characters of Unicode's private use."""
_TEXT = "tag:yaml.org,2002:str"
_TYPED = frozenset(f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "null"))


class UnsetVariable(yaml.YAMLError):
    """A document needs a variable that is not set and has no default."""

    def __init__(self, name: str, line: int) -> None:
        super().__init__(f"line {line} needs the environment variable {name}, which is not set")
        self.name = name
        self.line = line
        """The number of the line, counted from 1."""


@dataclass(frozen=True, slots=True)
class _Reference:
    written: str
    literal: str | None
    """The text that replaces an escaped `$${`, with the `NAME}` after it if there is one; None for a variable."""
    name: str
    default: str | None
    line: int


class Variables:
    """Replaces the variables of one YAML document.

    Call `mark` with its text, parse the result, then call `substitute` with the parsed scalars.
    """

    def __init__(self, values: Mapping[str, str], unset: str | None) -> None:
        """Takes the variables' values by name; `unset` is used for a variable with neither a value nor a default.

        If `unset` is None, `substitute` raises UnsetVariable for such a variable.
        """
        self._values = values
        self._unset = unset
        self._found: list[_Reference] = []

    def mark(self, text: str) -> str:
        """Returns the document's text with a mark in the place of each variable; to be called once.

        The marks are needed because a variable's braces would end a scalar inside `{ }` and `[ ]`.
        """
        line, end = 1, 0

        def to_mark(match: re.Match[str]) -> str:
            nonlocal line, end
            line += text.count("\n", end, match.start())
            end = match.start()
            self._found.append(_Reference(match[0], match["literal"], match["name"], match["default"], line))
            return f"\ue000{len(self._found) - 1}\ue001"

        return _VARIABLE.sub(to_mark, text)

    def unmark(self, text: str) -> str:
        """Returns a text, such as an error message, in which the marks of variables are replaced by the variables as
        the file has them.
        """
        return _MARK.sub(lambda match: self._found[int(match[1])].written, text)

    def substitute(self, nodes: Iterable[yaml.ScalarNode], resolver: yaml.resolver.Resolver) -> None:
        """Replaces the marks in the scalars `nodes` by the variables' values; changes the nodes.

        A scalar without quotes that consists of one variable becomes a number, a boolean or null if its value looks
        like one; all others stay texts. Raises UnsetVariable if a variable has no value (see `__init__`).
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
    """Returns a copy of `value` with every `${` in its texts escaped as `$${`, also inside dicts and lists.

    Use it for data of unknown origin that is written to a YAML file in which variables are replaced.
    """
    if isinstance(value, str):
        return value.replace("${", "$${")
    if isinstance(value, dict):
        return {escape(key): escape(one) for key, one in value.items()}
    return [escape(one) for one in value] if isinstance(value, list) else value
