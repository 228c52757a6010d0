"""Environment variables in YAML: `${NAME}` and `${NAME:-DEFAULT}` in scalars; `$${` is a literal `${`.

They are replaced after parsing, so that a value cannot change the document's structure, whatever characters it has.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Z0-9_]+)(?::-([^}]*))?\}")
_TEXT = "tag:yaml.org,2002:str"
_TYPED = frozenset(f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "null"))


class UnsetVariable(yaml.YAMLError):
    """A variable that is not set and has no default; the message has its line, such as "12: NAME"."""

    def __init__(self, name: str, line: int) -> None:
        super().__init__(f"line {line} needs the environment variable {name}, which is not set")
        self.name = name
        self.line = line
        """Counted from 1."""


def substitute(
    nodes: Iterable[yaml.ScalarNode], resolver: yaml.resolver.Resolver, variables: Mapping[str, str], unset: str | None
) -> None:
    """Replaces the variables in the scalars; a scalar that is one variable without quotes gets the value's type.

    That type is a number, true, false or null; everything else is a text. `unset` is the value of variables that are
    neither set nor have a default; None raises UnsetVariable.
    """
    for node in nodes:
        if "${" not in node.value:
            continue
        whole = _VARIABLE.fullmatch(node.value)
        line = node.start_mark.line + 1
        node.value = _VARIABLE.sub(lambda match, line=line: _value(match, line, variables, unset), node.value)  # type: ignore[misc]  # bound at once
        if whole and whole[1] and node.style is None and node.tag == _TEXT:
            resolved = resolver.resolve(yaml.ScalarNode, node.value, (True, False))
            node.tag = resolved if resolved in _TYPED and ":" not in node.value else _TEXT


def _value(match: re.Match[str], line: int, variables: Mapping[str, str], unset: str | None) -> str:
    name, default = match.groups()
    if name is None:
        return "${"
    value = variables.get(name, unset if default is None else default)
    if value is None:
        raise UnsetVariable(name, line)
    return value


def escape(value: Any) -> Any:
    """Returns data in whose texts every `${` is literal, for data of others that is written to a file."""
    if isinstance(value, str):
        return value.replace("${", "$${")
    if isinstance(value, dict):
        return {escape(key): escape(one) for key, one in value.items()}
    return [escape(one) for one in value] if isinstance(value, list) else value
