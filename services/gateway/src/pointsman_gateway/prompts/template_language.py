"""The part of Jinja's language that prompt files may use: checked when they are read, bounded when rendered."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST_STEPS = 100_000
"""Of all loops of one rendering together."""

MOST_CHARACTERS = 32 * 1024 * 1024
"""Of a prompt."""

_NODES = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.List, nodes.Tuple, nodes.Dict,
    nodes.Pair, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.For, nodes.If, nodes.CondExpr, nodes.Filter,
    nodes.Test, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Concat, nodes.Add, nodes.Sub,
    nodes.Neg, nodes.Call, nodes.Keyword,
)  # fmt: skip
"""No macros, no imports, no assignments, nothing that multiplies: what comes out grows with what goes in."""

FILTERS = (
    "abs", "capitalize", "count", "d", "default", "escape", "first", "float", "int", "join", "last", "length", "list",
    "lower", "reverse", "round", "sort", "string", "title", "tojson", "trim", "truncate", "unique", "upper",
    "wordcount",
)  # fmt: skip
"""Those whose results are not much longer than what goes in."""

_BUDGET = "_steps_left"
_COUNTED = "_counted"


class NotForPrompts(TemplateSyntaxError):
    """It is Jinja, and more than a prompt may use."""


class PromptEnvironment(ImmutableSandboxedEnvironment):
    """Compiles prompt files. Raises TemplateSyntaxError; NotForPrompts where one uses more than it may."""

    def __init__(self) -> None:
        super().__init__(undefined=StrictUndefined, autoescape=False, trim_blocks=True)
        self.filters = {name: self.filters[name] for name in FILTERS} | {"join": _join, _COUNTED: _counted}
        self.globals = {"range": _range}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        for check in _check_names, _check:
            for node in template.find_all(nodes.Node):
                check(node)
        for loop in template.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, _COUNTED, [], [], None, None, lineno=loop.lineno)
        return template

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:
        """What a rendering is made of, put together. Raises SecurityError where it is too long."""
        return "".join(_bounded(pieces))


def values_of(values: dict[str, Any]) -> dict[str, Any]:
    """What a rendering gets: the prompt's values, and how many steps its loops may take."""
    return values | {_BUDGET: [MOST_STEPS]}


def _check_names(node: nodes.Node) -> None:
    hidden = next((name for name in _names(node) if name.startswith("_")), None)
    if hidden:
        raise NotForPrompts(f"access to attribute '{hidden}' is unsafe", node.lineno)


def _check(node: nodes.Node) -> None:
    if not isinstance(node, _NODES):
        raise NotForPrompts(f"a prompt may not use '{type(node).__name__.lower()}'", node.lineno or 1)
    if isinstance(node, nodes.Filter) and node.name not in FILTERS:
        raise NotForPrompts(f"unknown filter '{node.name}'; known: {', '.join(FILTERS)}", node.lineno)
    if isinstance(node, nodes.Call) and not (isinstance(node.node, nodes.Name) and node.node.name == "range"):
        raise NotForPrompts("a prompt may call nothing but range()", node.lineno)
    if isinstance(node, nodes.For) and node.recursive:
        raise NotForPrompts("a loop may not call itself", node.lineno)


def _names(node: nodes.Node) -> Iterator[str]:
    if isinstance(node, nodes.Name):
        yield node.name
    elif isinstance(node, nodes.Getattr):
        yield node.attr
    elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        yield str(node.arg.value)


@pass_context
def _counted(context: Context, items: Any) -> Any:
    """What a loop goes through, if there are steps left for it."""
    budget = context[_BUDGET]
    if not hasattr(items, "__len__"):
        items = list(islice(items, budget[0] + 1))
    budget[0] -= len(items)
    if budget[0] < 0:
        raise SecurityError(f"the loops of a prompt may take {MOST_STEPS} steps together")
    return items


def _range(*bounds: int) -> range:
    steps = range(*bounds)
    if len(steps) > MOST_STEPS:
        raise SecurityError(f"range() may have {MOST_STEPS} steps")
    return steps


def _join(items: Iterable[Any], between: str = "") -> str:
    pieces = [str(item) for item in items]
    if sum(map(len, pieces)) + len(between) * len(pieces) > MOST_CHARACTERS:
        raise _too_long()
    return between.join(pieces)


def _bounded(pieces: Iterable[str]) -> Iterator[str]:
    left = MOST_CHARACTERS
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            raise _too_long()
        yield piece


def _too_long() -> SecurityError:
    return SecurityError(f"a prompt may have {MOST_CHARACTERS} characters")
