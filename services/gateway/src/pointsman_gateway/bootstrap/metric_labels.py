"""The names in a configuration that may be label values of metrics."""

from pointsman_gateway.config.load import Config
from pointsman_gateway.domain import UNKNOWN
from pointsman_gateway.metering.gen_ai import OPENAI


def label_values(config: Config) -> tuple[list[str], list[str]]:
    """Returns two lists: the names of paths and models; and the names of tasks, followed by `UNKNOWN`."""
    return [*config.paths.paths, *config.models.models], [*config.tasks.tasks, UNKNOWN]


def gen_ai_names(config: Config) -> tuple[dict[str, str], set[str], list[str]]:
    """Returns the `gen_ai.provider.name` of each model, the names of the adapters of paths, and the names of paths.

    A model is there by its own name and by the name that its engine has for it. From the name of an adapter, the part
    from "@" on is cut off, which is an alias or a version.
    """
    names = dict.fromkeys(config.models.models, OPENAI)
    for engine in reversed(config.models.engines.values()):  # the first engine of a model counts
        names[engine.model] = names[engine.upstream_name] = engine.preset.gen_ai_provider
    adapters = {path.adapter.partition("@")[0] for path in config.paths.paths.values() if path.adapter}
    return names, adapters, list(config.paths.paths)
