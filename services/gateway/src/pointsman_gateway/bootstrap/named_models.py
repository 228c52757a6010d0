"""The values that a request's `model` may have: base models, adapters, paths and aliases."""

from collections.abc import Sequence

from pointsman_gateway.bootstrap.paths import to_sampling
from pointsman_gateway.config.load import Config
from pointsman_gateway.domain import AUTO, PATH_PREFIX, Path, Sampling
from pointsman_gateway.engines.engines import Engines


class NamedModels:
    """Finds what a request's `model` names: a base model, an adapter or an alias. Implements `NamedPaths` and
    `ModelNames`.
    """

    def __init__(self, config: Config, engines: Engines) -> None:
        self.plain = {name: Path(name, name, tuned_from=of.tuned_from) for name, of in config.models.models.items()}
        models = config.models.models.items()
        self.fallbacks = {name: [self.plain[other] for other in of.fallback] for name, of in models if of.fallback}
        self._paths = tuple(config.paths.paths)
        self._engines = engines
        aliases, others = config.models.aliases, config.models.called_once
        self._aliases = {alias: name for alias, name in aliases.items() if name not in others}
        self._catch_all = config.models.catch_all
        self._sampling = _sampling_of_adapters(config)

    def resolve(self, model: str) -> str:
        """Returns the name that replaces a request's `model`.

        For an alias it is the alias's target, and for an unknown name it is the configured `catch_all`, if set. All
        other values are returned unchanged, also "auto", an empty text and "path:NAME".
        """
        if model == AUTO:
            return model
        target = self._aliases.get(model)
        if target is not None:
            return target
        if self._catch_all is None or not model or model.startswith(PATH_PREFIX) or self.path_of(model) is not None:
            return model
        return self._catch_all

    def path_of(self, model: str) -> Path | None:
        """Returns a path without prompt strategies for a request whose `model` is a base model or an adapter; None if
        `model` is neither.

        The path of an adapter has the sampling parameters of the configured paths with this adapter, if these paths
        agree.
        """
        if model in self.plain:
            return self.plain[model]
        base = self._engines.model_of(model)
        if not base:
            return None
        sampling = self._sampling.get(model.partition("@")[0], Sampling())
        return Path(f"adapter:{model}", base, adapter=model, sampling=sampling)

    def names(self) -> Sequence[str]:
        """Returns all names that a request's `model` may be at present, each once: "auto", aliases, models, paths,
        adapters.
        """
        paths = (PATH_PREFIX + name for name in self._paths)
        # A discovered adapter may be called like a model or an alias, which then has the name.
        return list(dict.fromkeys([AUTO, *self._aliases, *self.plain, *paths, *self._engines.adapters()]))


def _sampling_of_adapters(config: Config) -> dict[str, Sampling]:
    """Returns the sampling parameters of the paths with each adapter: adapter's name -> parameters.

    An adapter is left out if its paths have different parameters.
    """
    found: dict[str, list[Sampling]] = {}
    for path in config.paths.paths.values():
        if path.adapter:
            found.setdefault(path.adapter.partition("@")[0], []).append(to_sampling(path))
    return {name: first for name, (first, *others) in found.items() if all(other == first for other in others)}
