"""Builds the validators of a task."""

from pointsman_gateway.config.load import ConfigError
from pointsman_gateway.config.schema import TaskConfig
from pointsman_gateway.validation.stage import Named


def to_validators(name: str, task: TaskConfig) -> list[Named]:
    """Return the validators of the task called `name`, with their names. Raises ConfigError."""
    validators: list[Named] = []
    for validator in task.validators:
        try:
            validators.append((validator.name, validator.build()))
        except ValueError as error:
            raise ConfigError(f"tasks.yaml: task '{name}': validator {validator.name}: {error}") from error
    return validators
