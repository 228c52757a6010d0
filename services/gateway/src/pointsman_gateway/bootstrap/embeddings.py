"""Loads the embedding models if a configuration needs them, and builds the models of `/v1/embeddings`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pointsman_servicekit.buffer_budget import BufferedBytesBudget
from threadpoolctl import threadpool_limits

from pointsman_gateway.bootstrap.engine_discovery import check_url
from pointsman_gateway.bootstrap.loaded_models import LoadedModels
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import Config
from pointsman_gateway.config.models_file import EmbeddingConfig
from pointsman_gateway.config.providers import auth_header
from pointsman_gateway.embeddings.metrics import EmbeddingMetrics
from pointsman_gateway.embeddings.models import MAX_HELD_BYTES, EmbeddingEndpoint, RemoteEmbedder
from pointsman_gateway.embeddings.stage import Embeddings, PricedModel
from pointsman_gateway.extensions.http_poster import HttpPoster
from pointsman_gateway.metering.gen_ai import POINTSMAN
from pointsman_gateway.tracing import Instrumentation

if TYPE_CHECKING:
    from pointsman_embedding import EncoderConfig

    from pointsman_gateway.bootstrap.models import ClassifierCache, EmbeddingModels

LoadModels = Callable[[Path, "EncoderConfig | None"], "EmbeddingModels"]
"""Loads the embedding models, as `EmbeddingModels.load` does: from MiniLM's folder, and the configured encoder if it is
not None. Raises ConfigError and ModelMissing.
"""


def needs_models(config: Config) -> bool:
    """Returns whether something in the configuration embeds texts here: the classifier, a local model of
    `/v1/embeddings`, a semantic cache, or a prompt strategy.
    """
    paths = config.paths.paths.values()
    return (
        bool(config.tasks.tasks)
        or any(model.local for model in config.models.embeddings.values())
        or any(path.cache and path.cache.similarity_threshold is not None for path in paths)
        or any(getattr(used.implementation, "needs_embedding", True) for path in paths for used in path.strategies)
    )


class ModelsOnDemand:
    """Loads the embedding models when a configuration first needs them, and keeps them until the process ends.

    A gateway that never needs them does not import NumPy, ONNX Runtime and tokenizers, which take 40 MB.
    """

    def __init__(self, folder: Path, file: Path | None, store: Path | None, load: LoadModels | None = None) -> None:
        """Takes MiniLM's `folder`, and the `file` and the `store` for `ClassifierCache`.

        The models are loaded by `load`, or by `EmbeddingModels.load` if that is None.
        """
        self._folder, self._file, self._store, self._load = folder, file, store, load
        self._cache: ClassifierCache | None = None

    @property
    def fingerprint(self) -> str:
        """Returns the fingerprint of the embedding model; empty until the model is loaded."""
        return self._cache.fingerprint if self._cache else ""

    def get(self, config: Config) -> LoadedModels:
        """Returns the models that a configuration needs; an empty `LoadedModels` if it needs none.

        Takes seconds if the models must be loaded or the classifier fitted. The first load also limits numerical
        libraries to one thread in the whole process. Raises ConfigError if the models do not suit the configuration or
        fitting fails, ModelMissing if files of the model are missing, OSError if a classifier cannot be stored.
        """
        if not needs_models(config):
            return LoadedModels()
        if self._cache is None:
            from pointsman_gateway.bootstrap.models import ClassifierCache, EmbeddingModels

            # Products as small as the classifier's gain nothing from more threads, and they spin while they wait.
            threadpool_limits(limits=1)
            models = (self._load or EmbeddingModels.load)(self._folder, config.encoder)
            self._cache = ClassifierCache(models, self._file, self._store)
        return self._cache.get(config)


@dataclass(frozen=True, slots=True)
class EmbeddingDependencies:
    """What the embedding models of all configurations share."""

    http: HttpPoster
    metrics: EmbeddingMetrics
    tracing: Instrumentation
    answer_budget: BufferedBytesBudget = field(default_factory=lambda: BufferedBytesBudget(MAX_HELD_BYTES))
    """The memory for the responses of endpoints, in bytes."""


def build_embeddings(config: Config, loaded: LoadedModels, dependencies: EmbeddingDependencies) -> Embeddings:
    """Builds the models of `/v1/embeddings`. Their aliases, and a local model's fingerprint, are names of them too.

    Raises ConfigError if a URL is invalid, an API key is missing, or a model is `local` although the embedding model
    has a URL.
    """
    models: dict[str, PricedModel] = {}
    traced = dependencies.tracing.embedder
    for name, model in config.models.embeddings.items():
        price = model.usd_per_million_tokens
        if model.local:
            if loaded.endpoint is None:
                raise ConfigError(f"models.yaml: embeddings.{name}: no model is local, since 'embedding' has a url")
            # Also by its fingerprint, for clients that store vectors and must name the exact model.
            local = PricedModel(name, traced(loaded.endpoint.with_overflow(model.overflow), name, POINTSMAN), price)
            models[name] = models[loaded.fingerprint] = local
        else:
            remote = RemoteEmbedder(to_endpoint(name, model), dependencies.http)
            provider = model.preset.gen_ai_provider
            models[name] = PricedModel(name, traced(remote, name, provider), price)
    models |= {alias: models[name] for alias, name in config.models.aliases.items() if name in models}
    return Embeddings(models, dependencies.metrics, dependencies.answer_budget)


def to_endpoint(name: str, model: EmbeddingConfig) -> EmbeddingEndpoint:
    """Returns the endpoint of a remote embedding model called `name`.

    Raises ConfigError if the URL is invalid or the environment lacks the API key.
    """
    what, upstream = f"embedding model '{name}'", model.upstream or name
    header = auth_header(what, model.preset, model.api_key_env)
    check_url(what, model.base_url)
    api = model.preset.api(upstream, model.url_parts, header)
    return EmbeddingEndpoint(name, model.base_url + api.embeddings_path, upstream, header)
