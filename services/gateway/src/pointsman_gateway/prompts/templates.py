"""Prompt files as sandboxed templates: the text of users is a value in them, never a part of the template."""

from collections.abc import Mapping
from typing import Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pointsman_gateway.config.load import ConfigError


class Templates:
    """All prompt files, compiled once. Raises ConfigError where one does not compile."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False, trim_blocks=True)
        self._templates = {}
        for name, source in sources.items():
            try:
                self._templates[name] = environment.from_string(source)
            except TemplateError as error:
                raise ConfigError(f"prompts/{name} is not a template: {error}") from error

    def render(self, name: str, **values: Any) -> str:
        return self._templates[name].render(**values).strip()

    def try_out(self, name: str, **values: Any) -> None:
        """Renders once with sample values, so that an unknown variable is found at load. Raises ConfigError."""
        try:
            self.render(name, **values)
        except TemplateError as error:
            raise ConfigError(f"prompts/{name}: {error}; known variables: {', '.join(values)}") from error
