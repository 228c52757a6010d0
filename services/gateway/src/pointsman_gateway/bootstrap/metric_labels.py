"""Collects the names in a configuration that metrics may have as values of labels. Metrics export any other name as
"other".
"""

from pointsman_gateway.config.load import Config
from pointsman_gateway.domain import UNKNOWN
from pointsman_gateway.metering.gen_ai import OPENAI


def label_values(config: Config) -> tuple[list[str], list[str]]:
    """Returns two lists of the names that labels of metrics may have: (paths and models, tasks).

    The list of tasks ends with `UNKNOWN`, which stands for requests that fit no task.
    """
    return [*config.paths.paths, *config.models.models], [*config.tasks.tasks, UNKNOWN]


def gen_ai_names(config: Config) -> tuple[dict[str, str], set[str], list[str]]:
    """Returns the names for metrics by OpenTelemetry's GenAI conventions: (providers, adapters, paths).

    The providers are a mapping from a model's name, or its engine's name for the model, to a `gen_ai.provider.name`.
    The adapters are those of the configured paths, without the alias or version after "@".
    """
    names = dict.fromkeys(config.models.models, OPENAI)
    for engine in reversed(config.models.engines.values()):  # the first engine of a model counts
        names[engine.model] = names[engine.upstream_name] = engine.preset.gen_ai_provider
    adapters = {path.adapter.partition("@")[0] for path in config.paths.paths.values() if path.adapter}
    return names, adapters, list(config.paths.paths)
