"""Parses YAML: rejects duplicate keys, bounds aliases, and replaces environment variables if asked to. Needs PyYAML.

PyYAML silently drops the first of two equal keys, and a few lines of aliases of aliases become billions of values.
"""

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import yaml

from pointsman_servicekit.yaml_variables import Variables

MAX_ALIASED_VALUES = 100_000
"""The most values that a document may have through its aliases, in addition to the values that are written out."""
MAX_DEPTH = 100
"""The most levels of lists and mappings that a document may have, with aliases expanded."""
_TWICE = "stands twice"


def load(text: str, variables: Mapping[str, str] | None = None, unset: str | None = None) -> Any:
    """Parses one YAML document; returns None for an empty one.

    With `variables` (values by name), `${NAME}` in scalars is replaced, as `yaml_variables` describes. A variable
    without a value and without a default becomes `unset`; if `unset` is None, it raises UnsetVariable, a
    yaml.YAMLError.

    Raises yaml.YAMLError if the text is no valid YAML, has a duplicate key, an invalid date or half of a surrogate
    pair, or exceeds `MAX_ALIASED_VALUES` or `MAX_DEPTH`.
    """
    names = None if variables is None else Variables(variables, unset)
    loader = _Loader(text if names is None else names.mark(text))
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        scalars = list(_scalars(node))
        if names is not None:
            names.substitute(scalars, loader)
        for scalar in scalars:
            _check_characters(scalar)
        return loader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deep") from None
    except yaml.MarkedYAMLError as error:
        problem = str(error) if names is None else names.unmark(str(error))
        raise yaml.YAMLError(problem.replace('in "<unicode string>", ', "in ") + _remedy(error)) from error
    finally:
        loader.dispose()


def _remedy(error: yaml.MarkedYAMLError) -> str:
    """Returns advice to append to an error's message; empty if the message says enough."""
    if isinstance(error, yaml.constructor.ConstructorError):
        return "; keep one of them" if _TWICE in str(error.problem) else ""
    if "'\\t'" in str(error.problem):
        return "; indent with spaces, YAML takes no tabs"
    return "; check the indentation, quotes and colons there: keys of one level begin in the same column"


def _scalars(root: yaml.Node) -> Iterator[yaml.ScalarNode]:
    """Yields each scalar once; raises yaml.YAMLError if aliases make the document too large, too deep or endless."""
    sizes: dict[int, int] = {}
    """The number of values in each node, aliases expanded, by the node's id; 0 while they are counted."""
    depths: dict[int, int] = {}
    written = 0
    pending = [(root, False)]
    while pending:
        node, is_counted = pending.pop()
        inner = _inner(node)
        if is_counted:
            sizes[id(node)] = 1 + sum(sizes[id(one)] for one in inner)
            depths[id(node)] = 1 + max((depths[id(one)] for one in inner), default=0)
            if sizes[id(node)] > MAX_ALIASED_VALUES + written or depths[id(node)] > MAX_DEPTH:
                raise _error(node, "its aliases make it too large, or it is nested too deep")
        elif id(node) not in sizes:
            written += 1
            sizes[id(node)] = 0
            pending.append((node, True))
            pending += [(one, False) for one in reversed(inner)]
            if isinstance(node, yaml.ScalarNode):
                yield node
        elif not sizes[id(node)]:
            raise _error(node, "it contains itself by an alias")


def _check_characters(scalar: yaml.ScalarNode) -> None:
    try:
        scalar.value.encode()
    except UnicodeEncodeError:
        raise _error(scalar, "half of a surrogate pair, such as \\ud800, is no character") from None


def _inner(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _error(node: yaml.Node, problem: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


class _Loader(yaml.SafeLoader):
    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            problem = f"'{node.value}': {error}; in quotes it is a text"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if str(key.value) in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' {_TWICE}", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)
