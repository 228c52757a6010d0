"""Compares the files of two versions of the configuration, value by value, for the audit log."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import yaml
from pointsman_servicekit.audit.entries import AuditedChange

MAX_VALUES_PER_FILE = 20_000
"""Maximum number of values of a file that is compared value by value. Of a larger file only a digest is compared."""

_TEXT = ""
"""The path of the only value of a file that is no YAML: its digest."""
_PRICES = frozenset({"prices_as_of", "price_changes", "service_tiers", "usd_per_million_tokens"})
_FILES = frozenset({"access.yaml", "models.yaml", "paths.yaml", "pointsman.yaml", "tasks.yaml"})
"""The files that are compared by values. Others hold prompts and examples, which are texts of people."""
_ROLES_FILE = "access.yaml"
_ROLES, _ALIASES = "single_sign_on", "aliases"

FileValues = Mapping[str, Mapping[str, Any]]
"""The values of each file, by the file's name and then by their path, such as "models.mini.context_window"."""


def file_values(files: Mapping[str, str]) -> FileValues:
    """Returns the values in the configuration's files, which are given as texts by file name.

    A file that holds prompts or examples, that is not YAML, or that has more than `MAX_VALUES_PER_FILE` values,
    counts as one value: a digest of its text.
    """
    return {name: _values(name, text) for name, text in files.items()}


def to_json(values: FileValues) -> str:
    return json.dumps(values, separators=(",", ":"), default=str)


def changes_between(before: FileValues, after: FileValues) -> list[AuditedChange]:
    """Returns the differences between two versions of the configuration.

    For each file that differs there is one entry per kind of value: "price", "role", "alias" or "configuration".
    """
    changes = []
    for file in sorted(before.keys() | after.keys()):
        old, new = before.get(file, {}), after.get(file, {})
        by_kind: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        for path in dict.fromkeys(chain(old, new)):
            if old.get(path, _TEXT) == new.get(path, _TEXT) and (path in old) == (path in new):
                continue
            sides = by_kind.setdefault(_kind(file, path), ({}, {}))
            for side, values in zip(sides, (old, new), strict=True):
                if path in values:
                    side[path or "text"] = values[path]
        change = "changed" if file in before and file in after else "added" if file in after else "removed"
        changes += [AuditedChange(kind, change, file, *sides) for kind, sides in by_kind.items()]
    return changes


def _values(name: str, text: str) -> dict[str, Any]:
    if name in _FILES:
        try:
            values = dict(_flat("", yaml.safe_load(text), [MAX_VALUES_PER_FILE]))
            as_read_back: dict[str, Any] = json.loads(json.dumps(values, default=str))
            return as_read_back
        except (yaml.YAMLError, ValueError, RecursionError):
            pass
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return {_TEXT: f"sha256 {digest}, {text.count(chr(10)):,} lines"}


def _flat(path: str, value: Any, left: list[int]) -> Iterator[tuple[str, Any]]:
    """Yields the values within a value by their paths; a list of plain values is one. Raises ValueError after
    `left[0]` values.
    """
    if isinstance(value, dict) and value:
        parts = list(value.items())
    elif isinstance(value, list) and any(isinstance(one, dict | list) for one in value):
        parts = list(enumerate(value))
    else:
        left[0] -= 1
        if left[0] < 0:
            raise ValueError("too many values")
        yield path, value
        return
    for name, part in parts:
        yield from _flat(f"{path}.{name}" if path else str(name), part, left)


def _kind(file: str, path: str) -> str:
    parts = path.split(".")
    if any(part in _PRICES or part.startswith("usd_per_") for part in parts):
        return "price"
    if file == _ROLES_FILE or parts[0] == _ROLES:
        return "role"
    return "alias" if parts[0] == _ALIASES else "configuration"
