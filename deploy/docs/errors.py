"""Finds the error codes in the services' source: every `code="..."` that is given to an error class."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pointsman_servicekit import errors as tree

ROOT = Path(__file__).parents[2]
SOURCES = {
    "gateway": "services/gateway/src",
    "retriever": "services/retriever/src",
    "lora-server": "services/lora-server/src",
    "all services": "libs/servicekit/src",
}


@dataclass
class ErrorCode:
    http: int
    grpc: str
    message: str
    services: set[str] = field(default_factory=set)


def error_codes() -> dict[str, ErrorCode]:
    """Returns the errors by code. If several places raise a code, the first non-empty message is used."""
    found: dict[str, ErrorCode] = {}
    for service, source in SOURCES.items():
        trees = [ast.parse(file.read_text()) for file in sorted((ROOT / source).rglob("*.py"))]
        classes = _classes(trees)
        for code, error, message in (one for module in trees for one in _raised(module, classes)):
            made = found.setdefault(code, ErrorCode(error.http_status, error.grpc_status.name, message))
            made.message = made.message or message
            made.services.add(service)
    return found


def _classes(modules: list[ast.Module]) -> dict[str, type[tree.PointsmanError]]:
    """Returns the error classes of the tree and of these modules by name, and functions that return such an error."""
    known = {name: value for name, value in vars(tree).items() if isinstance(value, type)}
    classes = {name: value for name, value in known.items() if issubclass(value, tree.PointsmanError)}
    derived = [node for module in modules for node in ast.walk(module) if isinstance(node, ast.ClassDef)]
    for _ in range(3):  # the depth of the tree
        for node in derived:
            parents = [classes[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in classes]
            for parent in parents:
                classes.setdefault(node.name, parent)
    makers = [node for module in modules for node in ast.walk(module) if isinstance(node, ast.FunctionDef)]
    return classes | {
        node.name: classes[node.returns.id]
        for node in makers
        if isinstance(node.returns, ast.Name) and node.returns.id in classes
    }


def _raised(
    module: ast.Module, classes: dict[str, type[tree.PointsmanError]]
) -> Iterator[tuple[str, type[tree.PointsmanError], str]]:
    for owner in ast.walk(module):
        name = owner.name if isinstance(owner, ast.ClassDef) else ""
        for call in ast.walk(owner) if name in classes or owner is module else ():
            if not isinstance(call, ast.Call):
                continue
            called = _name(call.func)
            error = classes.get(name if called == "__init__" else called)
            codes = [*(word.value for word in call.keywords if word.arg == "code"), *call.args[1:2]]
            if error and codes and isinstance(codes[0], ast.Constant) and isinstance(codes[0].value, str):
                yield codes[0].value, error, _text(call.args[0]) if call.args else ""


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _text(message: ast.expr) -> str:
    """Returns a message's text, with … for each value."""
    if isinstance(message, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in message.values)
    return message.value if isinstance(message, ast.Constant) and isinstance(message.value, str) else ""
