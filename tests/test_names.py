"""Each public class of a distribution has a name of its own, so that a search for it finds one definition."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DISTRIBUTIONS = sorted(
    folder.parent for pattern in ("libs", "services", "tools", ".") for folder in (ROOT / pattern).glob("*/src")
)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=lambda folder: folder.name)
def test_no_two_public_classes_have_one_name(distribution: Path) -> None:
    files = defaultdict(list)
    for file in (distribution / "src").rglob("*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                files[node.name].append(file.name)
    assert files
    assert {name: found for name, found in files.items() if len(found) > 1} == {}
