"""Builds the validators of the tasks, which check answers, and the guardrails."""

from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import Config
from pointsman_gateway.config.tasks_file import TaskConfig
from pointsman_gateway.extensions import GuardrailContext
from pointsman_gateway.extensions.http_poster import HttpPoster
from pointsman_gateway.pipeline.guardrails import ActiveGuardrail
from pointsman_gateway.validation.stage import Named


def to_validators(name: str, task: TaskConfig) -> list[Named]:
    """Returns (name, validator) for each validator of the task called `name`.

    Raises ConfigError if a validator's options cannot be used.
    """
    validators: list[Named] = []
    for validator in task.validators:
        try:
            validators.append((validator.name, validator.build()))
        except ValueError as error:
            raise ConfigError(f"tasks.yaml: task '{name}': validator {validator.name}: {error}") from error
    return validators


def to_guardrails(config: Config, http: HttpPoster | None) -> list[ActiveGuardrail]:
    """Builds the configured guardrails. `http` sends their requests; None if the configuration is only checked.

    Raises ConfigError if a guardrail's options cannot be used.
    """
    guardrails = []
    for guardrail in config.tasks.guardrails:
        try:
            built = guardrail.check.build(GuardrailContext(guardrail.name, http))
        except ValueError as error:
            raise ConfigError(f"tasks.yaml: guardrail '{guardrail.name}': {error}") from error
        guardrails.append(ActiveGuardrail(guardrail, built))
    return guardrails
