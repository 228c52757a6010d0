"""Installs the package `examples/extensions` for one test, and reads the examples of docs/extending.md."""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "examples" / "extensions"
PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")
ENTRY_POINTS: dict[str, dict[str, str]] = tomllib.loads((PACKAGE / "pyproject.toml").read_text("utf-8"))["project"][
    "entry-points"
]


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the package importable, and publishes its entry points through a distribution in `folder`."""
    info = folder / "pointsman_examples-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pointsman-examples\nVersion: 1.0\n")
    groups = (
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
        for group, points in ENTRY_POINTS.items()
    )
    (info / "entry_points.txt").write_text("\n".join(groups))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.syspath_prepend(str(PACKAGE))
    for module in [name for name in sys.modules if name.partition(".")[0] == "pointsman_examples"]:
        monkeypatch.delitem(sys.modules, module)


def names(group: str) -> list[str]:
    """Returns both names of the example in an entry point group: the short one, and `module:attribute`."""
    ((name, target),) = ENTRY_POINTS[group].items()
    return [name, target]


def blocks(language: str) -> list[str]:
    """Returns the page's code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def configuration(key: str, name: str) -> Any:
    """Returns what the page writes under `key` in the configuration, with the extension called `name`."""
    (written,) = [block[key] for block in map(yaml.safe_load, blocks("yaml")) if key in block]
    ((_, options),) = (written[0] if isinstance(written, list) else written).items()
    return [{name: options}] if isinstance(written, list) else {name: options}
