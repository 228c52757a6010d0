"""Finds folders that pointsman.yaml names for `pointsman up` and that do not exist; the gateway reads none of them."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any

from pointsman_servicekit import strict_yaml

from pointsman_gateway.config.example_files import read_text

_ADAPTER_FILE = "adapter_config.json"


def missing_folders(file: FilePath) -> Iterator[str]:
    """Yields a message for each folder that the configuration file names and that is missing or no adapter's folder.

    `file` is a valid configuration. Checked are the base model (a folder if it begins with "/", "." or "~"),
    collections and adapters; an adapter's folder must have adapter_config.json.
    """
    content = strict_yaml.load(read_text(file), os.environ)
    base = content.get("base_model")
    if isinstance(base, str) and base.startswith(("/", ".", "~")):
        yield from _missing(file, "base_model", base)
    for name, folder in _entries(content, "collections"):
        if isinstance(folder, str):
            yield from _missing(file, f"collections.{name}", folder)
    for name, entry in _entries(content, "adapters"):
        if isinstance(entry, Mapping) and isinstance(folder := entry.get("folder"), str):
            yield from _missing(file, f"adapters.{name}.folder", folder, _ADAPTER_FILE)


def _entries(content: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    found = content.get(key)
    return list(found.items()) if isinstance(found, Mapping) else []


def _missing(file: FilePath, key: str, written: str, needed: str = "") -> Iterator[str]:
    folder = (file.parent / FilePath(written).expanduser()).resolve()
    if not folder.is_dir():
        yield f"{file.name}: {key}: {folder} is not a folder; create it, or correct the path: `pointsman up` needs it"
    elif needed and not (folder / needed).is_file():
        yield f"{file.name}: {key}: {folder} has no {needed}; name an adapter's folder: `pointsman up` needs it"
