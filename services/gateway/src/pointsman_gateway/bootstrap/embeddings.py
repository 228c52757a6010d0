"""Loads the embedding models if a configuration needs them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

from pointsman_gateway.bootstrap.loaded_models import LoadedModels
from pointsman_gateway.config.load import Config

if TYPE_CHECKING:
    from pointsman_embedding import EncoderConfig

    from pointsman_gateway.bootstrap.models import ClassifierCache, EmbeddingModels

LoadModels = Callable[[Path, "EncoderConfig | None"], "EmbeddingModels"]
"""A function that loads the embedding models, such as `EmbeddingModels.load`. Its arguments are the folder of MiniLM
(the default model) and the configured encoder, or None for MiniLM. It raises ModelMissing if files are missing, and
ConfigError if the encoder cannot be used."""


def needs_models(config: Config) -> bool:
    """Returns whether a feature in the configuration embeds texts, so that this process must load the embedding models.

    Such features are tasks, a local model of `/v1/embeddings`, a semantic cache, and some prompt strategies.
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
        """Takes the `folder` of MiniLM, the default embedding model, a `file` with a fitted classifier, and the folder
        `store` for newly fitted classifiers.

        With `file`, no classifier is fitted; without `store`, none is stored. The embedding models are loaded by
        `load`, or by `EmbeddingModels.load` if `load` is None.
        """
        self._folder, self._file, self._store, self._load = folder, file, store, load
        self._cache: ClassifierCache | None = None

    @property
    def fingerprint(self) -> str:
        """Returns the text that identifies the embedding model and its files; empty until the model is loaded."""
        return self._cache.fingerprint if self._cache else ""

    def get(self, config: Config) -> LoadedModels:
        """Returns the classifier and the embedding model for a configuration; all fields are empty if the configuration
        needs neither.

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
