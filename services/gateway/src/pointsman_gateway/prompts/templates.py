"""Prompt files as sandboxed Jinja templates: checked when they are loaded, bounded when they are rendered.

A user's text is a value in a template and never a part of it.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.meta import find_undeclared_variables
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pointsman_servicekit.errors import Internal

from pointsman_gateway.config.field_types import ConfigError

MAX_STEPS = 100_000
"""Maximum number of steps of all loops together in one rendering of a template."""

MAX_CHARACTERS = 32 * 1024 * 1024
"""Maximum number of characters of a rendered prompt file."""

_NODES = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.List, nodes.Tuple, nodes.Dict,
    nodes.Pair, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.For, nodes.If, nodes.CondExpr, nodes.Filter,
    nodes.Test, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Concat, nodes.Add, nodes.Sub,
    nodes.Neg, nodes.Call, nodes.Keyword,
)  # fmt: skip
"""The classes of syntax that prompt files may use. Macros, imports, assignments and multiplication are not among them,
so the output's length is proportional to the input's."""

FILTERS = (
    "abs", "capitalize", "count", "d", "default", "escape", "first", "float", "int", "join", "last", "length", "list",
    "lower", "reverse", "round", "sort", "string", "title", "tojson", "trim", "truncate", "unique", "upper",
    "wordcount",
)  # fmt: skip
"""Names of the filters that prompt files may use. Their results are not much longer than their inputs."""

_BUDGET = "_steps_left"
_COUNTED = "_counted"

log = logging.getLogger(__name__)

_FAILURES = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)
"""The exceptions that rendering a template may raise, depending on the values."""


class ForbiddenSyntax(TemplateSyntaxError):
    """Raised for a template that is valid Jinja, but uses syntax, a filter, a call or a name that prompt files must
    not use.
    """


class PromptEnvironment(ImmutableSandboxedEnvironment):
    """The sandboxed Jinja environment that compiles prompt files.

    Raises TemplateSyntaxError, such as ForbiddenSyntax, for an invalid file. Render templates with the result of
    `values_of`, which limits loops.
    """

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
        """Joins the pieces of a rendered template; raises SecurityError if they exceed `MAX_CHARACTERS`."""
        return "".join(_bounded(pieces))


def values_of(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the values to render a template with: `values`, and a limit of `MAX_STEPS` steps for its loops."""
    return values | {_BUDGET: [MAX_STEPS]}


def _check_names(node: nodes.Node) -> None:
    hidden = next((name for name in _names(node) if name.startswith("_")), None)
    if hidden:
        raise ForbiddenSyntax(f"access to attribute '{hidden}' is unsafe", node.lineno)


def _check(node: nodes.Node) -> None:
    if not isinstance(node, _NODES):
        raise ForbiddenSyntax(f"a prompt may not use '{type(node).__name__.lower()}'", node.lineno or 1)
    if isinstance(node, nodes.Filter) and node.name not in FILTERS:
        raise ForbiddenSyntax(f"unknown filter '{node.name}'; known: {', '.join(FILTERS)}", node.lineno)
    if isinstance(node, nodes.Call) and not (isinstance(node.node, nodes.Name) and node.node.name == "range"):
        raise ForbiddenSyntax("a prompt may call nothing but range()", node.lineno)
    if isinstance(node, nodes.For) and node.recursive:
        raise ForbiddenSyntax("a loop may not call itself", node.lineno)


def _names(node: nodes.Node) -> Iterator[str]:
    if isinstance(node, nodes.Name):
        yield node.name
    elif isinstance(node, nodes.Getattr):
        yield node.attr
    elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        yield str(node.arg.value)


@pass_context
def _counted(context: Context, items: Any) -> Any:
    """Returns the items of a template's loop, and subtracts their number from the loop steps that the rendering has
    left.

    Raises SecurityError if too few steps are left.
    """
    budget = context[_BUDGET]
    if not hasattr(items, "__len__"):
        items = list(islice(items, budget[0] + 1))
    budget[0] -= len(items)
    if budget[0] < 0:
        raise SecurityError(f"the loops of a prompt may take at most {MAX_STEPS} steps together")
    return items


def _range(*bounds: int) -> range:
    steps = range(*bounds)
    if len(steps) > MAX_STEPS:
        raise SecurityError(f"range() may have at most {MAX_STEPS} steps")
    return steps


def _join(items: Iterable[Any], between: str = "") -> str:
    pieces = [str(item) for item in items]
    if sum(map(len, pieces)) + len(between) * len(pieces) > MAX_CHARACTERS:
        raise _too_long()
    return between.join(pieces)


def _bounded(pieces: Iterable[str]) -> Iterator[str]:
    left = MAX_CHARACTERS
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            raise _too_long()
        yield piece


def _too_long() -> SecurityError:
    return SecurityError(f"a prompt may have at most {MAX_CHARACTERS} characters")


class PromptTemplates:
    """All prompt files of a configuration as compiled templates; implements the strategies' `Templates`."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        """Compiles the sources, by file name in prompts/; raises ConfigError if one is not a valid template."""
        environment = PromptEnvironment()
        self._templates = {}
        self._constant: dict[str, str] = {}
        """The rendered text, by file name, of prompt files without variables, as most instructions are."""
        for name, source in sources.items():
            try:
                self._templates[name] = environment.from_string(source)
            except ForbiddenSyntax as error:
                raise ConfigError(f"prompts/{name}:{error.lineno}: {error.message}") from error
            except TemplateSyntaxError as error:
                raise ConfigError(
                    f"prompts/{name}:{error.lineno} is not a template: {error.message}; text with {{{{ or {{% that is "
                    "no template stands between {% raw %} and {% endraw %}"
                ) from error
            except (TemplateError, RecursionError) as error:
                raise ConfigError(f"prompts/{name} is not a template: {error}") from error
            if not find_undeclared_variables(environment.parse(source)):
                with suppress(*_FAILURES):
                    self._constant[name] = self._templates[name].render({}).strip()

    def constant(self, name: str) -> str | None:
        """Returns the text of a prompt file whose template uses no variable; None for other files."""
        return self._constant.get(name)

    def render(self, name: str, **values: Any) -> str:
        """Returns the text of a prompt file, rendered with the values of its variables, without white space at both
        ends.

        Raises Internal ("prompt_failed") if that fails; the message does not contain the values.
        """
        try:
            return self._render(name, values)
        except _FAILURES as error:
            log.exception("prompts/%s cannot be rendered", name)
            raise Internal(
                f"prompts/{name} cannot be rendered for this request ({type(error).__name__})", code="prompt_failed"
            ) from error

    def try_out(self, name: str, **values: Any) -> None:
        """Renders a prompt file with sample values; raises ConfigError if that fails, for example because the file does
        not exist or uses another variable.
        """
        try:
            self._render(name, values)
        except _FAILURES as error:
            raise ConfigError(f"prompts/{name}: {error}; known variables: {', '.join(values)}") from error

    def _render(self, name: str, values: dict[str, Any]) -> str:
        if name in self._constant:
            return self._constant[name]
        return self._templates[name].render(values_of(values)).strip()
