"""Prompt files as sandboxed templates: the text of users is a value in them, never a part of the template."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from jinja2 import TemplateError
from jinja2.meta import find_undeclared_variables
from pointsman_servicekit.errors import Internal

from pointsman_gateway.config.load import ConfigError
from pointsman_gateway.prompts.template_language import NotForPrompts, PromptEnvironment, values_of

log = logging.getLogger(__name__)

_FAILURES = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)
"""What rendering may raise, whatever the values are."""


class Templates:
    """All prompt files, compiled once. Raises ConfigError where one does not compile."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        environment = PromptEnvironment()
        self._templates = {}
        self._constant: dict[str, str] = {}
        """Those that nothing of a request goes into, rendered: most instructions are."""
        for name, source in sources.items():
            try:
                self._templates[name] = environment.from_string(source)
            except NotForPrompts as error:
                raise ConfigError(f"prompts/{name}: {error}") from error
            except (TemplateError, RecursionError) as error:
                raise ConfigError(f"prompts/{name} is not a template: {error}") from error
            if not find_undeclared_variables(environment.parse(source)):
                with suppress(*_FAILURES):
                    self._constant[name] = self._templates[name].render({}).strip()

    def constant(self, name: str) -> str | None:
        """The text, where it is the same for every request."""
        return self._constant.get(name)

    def render(self, name: str, **values: Any) -> str:
        """Raises Internal ("prompt_failed"), which says nothing of the values."""
        try:
            return self._render(name, values)
        except _FAILURES as error:
            log.exception("prompts/%s cannot be rendered", name)
            raise Internal(
                f"prompts/{name} cannot be rendered for this request ({type(error).__name__})", code="prompt_failed"
            ) from error

    def try_out(self, name: str, **values: Any) -> None:
        """Renders once with sample values, so that an unknown variable is found at load. Raises ConfigError."""
        try:
            self._render(name, values)
        except _FAILURES as error:
            raise ConfigError(f"prompts/{name}: {error}; known variables: {', '.join(values)}") from error

    def _render(self, name: str, values: dict[str, Any]) -> str:
        if name in self._constant:
            return self._constant[name]
        return self._templates[name].render(values_of(values)).strip()
