"""Changes keys of models in the text of a YAML file; comments and all other text stay as they are."""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

import yaml
from pointsman_gateway.config.field_types import ConfigError
from pointsman_servicekit import strict_yaml

Keys = Mapping[str, Any]

_BY_HAND = "write its prices by hand"


def with_keys(text: str, models: Mapping[str, Keys], top: Keys) -> str:
    """Sets keys in the YAML text of a models file, and returns the new text; other text and comments stay.

    `models` has the keys to set for each model, by the model's name, and `top` the keys to set at the top level. An
    existing value of a key is replaced, with all comments inside the value. Raises ConfigError if a key cannot be set
    without changing something else, for example because two models share a value by a YAML alias.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError("the models file has no keys; it should be a mapping with `models`")
    references = Counter(_references(root))
    edits: list[tuple[int, int, str]] = []
    section = _value(root, "models")
    for name, keys in models.items():
        node = _value(section, name)
        if node is None or references[id(node)] > 1 or references[id(section)] > 1:
            raise ConfigError(f"model '{name}' is not written out in models: {_BY_HAND}")
        edits += _edits(text, node, keys, references, name)
    edits += _edits(text, root, top, references, "the file")
    for start, end, replacement in sorted(edits, reverse=True):
        text = text[:start] + replacement + text[end:]
    return text


def check_edit(before: str, after: str, models: Mapping[str, Keys], top: Keys) -> None:
    """Checks that a models file was edited as wanted, and that nothing else in it has changed.

    `before` and `after` are its YAML texts. `models` has the keys that were to be set for each model, by the model's
    name, and `top` the keys that were to be set at the top level. Raises ConfigError if `after` has other values.
    """
    expected = strict_yaml.load(before)
    expected |= top
    for name, keys in models.items():
        expected["models"][name] = {**(expected["models"][name] or {}), **keys}
    try:
        is_right = strict_yaml.load(after) == expected
    except yaml.YAMLError:
        is_right = False
    if not is_right:
        raise ConfigError(f"the prices cannot be written into the file without changing something else: {_BY_HAND}")


def written(value: Any) -> str:
    """Returns a value as YAML in one line: a mapping or a list of such values, a `date`, or a number.

    The keys of a mapping are written as they are. Raises TypeError for any other value, such as a string.
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {written(of)}" for key, of in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(written, value)) + "]"
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, int | float):
        return str(int(value)) if value == int(value) else f"{value:.12f}".rstrip("0")
    raise TypeError(f"{value!r} is neither a mapping, a list, a day nor a number")


def _edits(
    text: str, node: yaml.Node, keys: Keys, references: Mapping[int, int], what: str
) -> Iterator[tuple[int, int, str]]:
    """Yields (start, end, replacement) for each key of a mapping, or of an empty value that becomes a mapping."""
    added: list[str] = []
    for key, value in keys.items():
        found = _pair(node, key)
        if found is None:
            added.append(f"{key}: {written(value)}")
            continue
        old_key, old = found
        if references[id(old)] > 1:
            raise ConfigError(f"'{key}' of {what} is shared by an alias: {_BY_HAND}")
        start, end = old.start_mark.index, _end(old)
        if not text[old_key.end_mark.index : start].replace(":", "", 1).strip():
            start = old_key.end_mark.index + text[old_key.end_mark.index :].index(":") + 1
            yield start, end, f" {written(value)}"
        else:  # a comment or an anchor lies between
            yield start, end, written(value)
    if not added:
        return
    if not isinstance(node, yaml.MappingNode):
        if node.tag != "tag:yaml.org,2002:null":
            raise ConfigError(f"{what} is no mapping: {_BY_HAND}")
        yield node.start_mark.index, node.end_mark.index, f" {{{', '.join(added)}}}"
    elif node.flow_style:
        start = node.start_mark.index + text[node.start_mark.index :].index("{") + 1
        yield start, start, ", ".join(added) + (", " if node.value else "")
    else:
        first = node.value[0][0].start_mark
        indent = " " * first.column
        yield first.index, first.index, "".join(f"{line}\n{indent}" for line in added)


def _pair(node: yaml.Node | None, key: str) -> tuple[yaml.Node, yaml.Node] | None:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return next(((name, value) for name, value in pairs if name.value == key), None)


def _value(node: yaml.Node | None, key: str) -> yaml.Node | None:
    found = _pair(node, key)
    return found and found[1]


def _end(node: yaml.Node) -> int:
    """Returns the index in the YAML text after the last character of a value.

    For a block mapping or sequence, this is the end of its last scalar: PyYAML's own mark comes only after the comments
    that follow.
    """
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _references(node: yaml.Node) -> Iterator[int]:
    """Yields the id of each node once for each place that refers to it."""
    seen = set()
    pending = [node]
    while pending:
        one = pending.pop()
        yield id(one)
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, yaml.MappingNode):
            pending += [part for pair in one.value for part in pair]
        elif isinstance(one, yaml.SequenceNode):
            pending += one.value
