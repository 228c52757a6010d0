"""Selects the receipts to compare with an export, and the names of models and keys, by configuration and options."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from pointsman_gateway.config.models_file import ModelsFile
from pointsman_gateway.config.providers import provider_at

from pointsman_lab.reconcile.charges import Charge
from pointsman_lab.reconcile.exports.lines import Export
from pointsman_lab.reconcile.join import Names


@dataclass(frozen=True, slots=True)
class Selection:
    """The options of the `reconcile` command that say which engines, models and keys an export is about."""

    engines: Collection[str] = ()
    """The engines whose receipts are compared; empty for all engines of the export's provider."""
    models: Mapping[str, str] = field(default_factory=dict)
    """Name of a model in the export -> its name in the configuration or at the provider, as in `Names.models`.

    An empty name leaves the model out.
    """
    keys: Mapping[str, str] = field(default_factory=dict)
    """Name of a key in the export -> the engine that uses it, as in `Names.keys`; an empty name leaves the key out."""

    def charges(self, charges: Sequence[Charge], export: Export, models: ModelsFile) -> list[Charge]:
        """Returns the charges to compare with an export: those of its provider's engines, or of the engines that the
        user names.

        A receipt of an earlier version names no engine; its charge is included if one of these engines serves its
        model.
        """
        chosen = {name for name, provider in providers_of(models).items() if provider in export.providers}
        if self.engines:
            chosen = {*self.engines}
        of_models = {engine.model for name, engine in models.engines.items() if name in chosen}
        return [one for one in charges if one.engine in chosen or (not one.engine and one.model in of_models)]

    def names(self, models: ModelsFile) -> Names:
        upstreams = {name: engine.upstream_name for name, engine in models.engines.items()}
        upstreams |= {name: model.upstream or name for name, model in models.called_once.items()}
        upstreams = {
            name: of.partition("/")[2] if name in models.engines and models.engines[name].uses_litellm else of
            for name, of in upstreams.items()
        }
        by_model = {engine.model: upstreams[name] for name, engine in models.engines.items()}
        return Names(self.models, self.keys, upstreams, by_model, frozenset(upstreams.values()))


def providers_of(models: ModelsFile) -> dict[str, str]:
    """Returns name -> provider for each engine, embedding model and reranker."""
    found = {name: engine.preset_name for name, engine in models.engines.items()}
    return found | {
        name: model.provider or provider_at(model.url) for name, model in models.called_once.items() if not model.is_own
    }


def unknown_models(export: Export, names: Names) -> list[str]:
    """Returns the models of an export that the configuration does not have, by the export's names."""
    found = {line.model for line in export.lines if line.model and names.model_of_line(line.model) not in names.known}
    return sorted(name for name in found if name not in names.models)
