"""YAML in which a duplicate key is an error, aliases are bounded, and environment variables may stand. Needs PyYAML.

Plain YAML silently drops the first of two equal keys, and a few lines of aliases of aliases stand for billions of
values.
"""

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import yaml

from pointsman_servicekit.yaml_variables import Variables

MAX_ALIASED_VALUES = 100_000
"""Values that a document has by its aliases in addition to those that are written out."""
MAX_DEPTH = 100
"""Levels of lists and mappings, aliases expanded."""
_TWICE = "stands twice"


def load(text: str, variables: Mapping[str, str] | None = None, unset: str | None = None) -> Any:
    """Parses YAML; raises yaml.YAMLError, also for a malformed date and for a document that is nested too deep.

    With `variables`, `${NAME}` is replaced in scalars. One that is not set and has no default becomes `unset`; if
    `unset` is None, it raises UnsetVariable, a yaml.YAMLError.
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
        return loader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deep") from None
    except yaml.MarkedYAMLError as error:
        problem = str(error) if names is None else names.unmark(str(error))
        raise yaml.YAMLError(problem.replace('in "<unicode string>", ', "in ") + _remedy(error)) from error
    finally:
        loader.dispose()


def _remedy(error: yaml.MarkedYAMLError) -> str:
    """Returns what to do about a syntax error; empty for an error whose text says it."""
    if isinstance(error, yaml.constructor.ConstructorError):
        return "; keep one of them" if _TWICE in str(error.problem) else ""
    if "'\\t'" in str(error.problem):
        return "; indent with spaces, YAML takes no tabs"
    return "; check the indentation, quotes and colons there: keys of one level begin in the same column"


def _scalars(root: yaml.Node) -> Iterator[yaml.ScalarNode]:
    """Yields each scalar once; raises yaml.YAMLError if aliases make the document too large, too deep or endless."""
    sizes: dict[int, int] = {}
    """By node: its values, aliases expanded; 0 while they are counted."""
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
