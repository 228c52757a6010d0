"""A module's constants come first, so that a reader finds them; and each class name has one definition, so that a
search finds one."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(source for folder in ("libs", "services", "tools", ".") for source in (ROOT / folder).glob("*/src"))
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

of_each_distribution = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.parent.name)


def modules(source: Path) -> Iterator[tuple[Path, list[ast.stmt]]]:
    for file in source.rglob("*.py"):
        if "_pb2" not in file.name:
            yield file, ast.parse(file.read_text()).body


@of_each_distribution
def test_no_two_public_classes_have_one_name(source: Path) -> None:
    files = defaultdict(list)
    for file, body in modules(source):
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                files[node.name].append(file.name)
    assert files
    assert {name: found for name, found in files.items() if len(found) > 1} == {}


@of_each_distribution
def test_constants_come_before_the_first_definition_unless_they_need_one(source: Path) -> None:
    late = [f"{file.relative_to(ROOT)}:{line}" for file, body in modules(source) for line in late_constants(body)]
    assert late == []


def late_constants(body: list[ast.stmt]) -> Iterator[int]:
    """Yields the lines of the constants that could stand before the first definition."""
    defined: set[str] = set()
    """The names that are defined below the constants at the top."""
    for node in body:
        if isinstance(node, DEFINITIONS):
            defined.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and defined:
            names = [name for name in ast.walk(node) if isinstance(name, ast.Name)]
            assigned = {name.id for name in names if isinstance(name.ctx, ast.Store)}
            used = {name.id for name in names if isinstance(name.ctx, ast.Load)}
            if assigned and not used & defined:
                yield node.lineno
            defined |= assigned


def test_late_constants_are_found() -> None:
    body = ast.parse("A = 1\nclass B: pass\nC = B\nD = 2\nE: int = C\nB.x = 3\n").body
    assert list(late_constants(body)) == [4]


@of_each_distribution
def test_more_than_six_arguments_are_passed_by_name(source: Path) -> None:
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file, body in modules(source)
        for top in body
        for node in ast.walk(top)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not takes_the_command_line(node)
        if len([one for one in node.args.args if one.arg not in ("self", "cls")]) > 6
    ]
    assert found == []


def takes_the_command_line(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Returns whether Typer calls the function: its parameters are a command's options."""
    return any("Option" in ast.unparse(one.annotation) for one in function.args.args if one.annotation)
