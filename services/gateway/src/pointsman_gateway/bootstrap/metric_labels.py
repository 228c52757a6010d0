"""Returns the names in a configuration that metrics may have as values of labels; all other names are not exported."""

from pointsman_gateway.config.load import Config
from pointsman_gateway.domain import UNKNOWN
from pointsman_gateway.metering.gen_ai import OPENAI


def label_values(config: Config) -> tuple[list[str], list[str]]:
    """Returns two lists of names that metrics may have as values of labels: paths and models, and tasks.

    The tasks end with `UNKNOWN`, for requests that fit no task.
    """
    return [*config.paths.paths, *config.models.models], [*config.tasks.tasks, UNKNOWN]


def gen_ai_names(config: Config) -> tuple[dict[str, str], set[str], list[str]]:
    """Returns the names for metrics by OpenTelemetry's GenAI conventions: (model -> provider, adapters, paths).

    The provider is a `gen_ai.provider.name`, by the model's own name and by the name that its engine has for it.
    Adapters are those of the configured paths, without the alias or version after "@".
    """
    names = dict.fromkeys(config.models.models, OPENAI)
    for engine in reversed(config.models.engines.values()):  # the first engine of a model counts
        names[engine.model] = names[engine.upstream_name] = engine.preset.gen_ai_provider
    adapters = {path.adapter.partition("@")[0] for path in config.paths.paths.values() if path.adapter}
    return names, adapters, list(config.paths.paths)
