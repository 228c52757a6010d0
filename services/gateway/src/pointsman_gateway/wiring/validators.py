"""From the configuration's validators to those that judge."""

from pointsman_gateway.config.load import ConfigError
from pointsman_gateway.config.schema import TaskConfig, ValidatorConfig
from pointsman_gateway.validation.complete import Complete
from pointsman_gateway.validation.json_schema import BadSchema, JsonSchema
from pointsman_gateway.validation.mean_logprob import MeanLogprob
from pointsman_gateway.validation.patterns import BadPattern
from pointsman_gateway.validation.regex import Regex
from pointsman_gateway.validation.stage import Validator


def to_validators(name: str, task: TaskConfig) -> list[Validator]:
    """Those of the task of that name. Raises ConfigError."""
    validators = []
    for validator in task.validators:
        try:
            validators.append(_validator(validator))
        except (BadSchema, BadPattern) as error:
            raise ConfigError(f"tasks.yaml: task '{name}': validator {validator.name}: {error}") from error
    return validators


def _validator(config: ValidatorConfig) -> Validator:
    if config.json_schema is not None:
        return JsonSchema(config.json_schema)
    if config.regex is not None:
        return Regex(config.regex)
    if config.mean_logprob is not None:
        return MeanLogprob(config.mean_logprob)
    return Complete()  # the schema allows no other
