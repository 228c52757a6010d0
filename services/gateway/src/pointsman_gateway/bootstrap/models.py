"""Loads the embedding models, and fits or loads the classifier. Importing it imports NumPy and ONNX Runtime."""

import fcntl
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pointsman_embedding import Encoder, EncoderConfig, Prefixed, StaticModel, open_encoder
from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.bootstrap.loaded_models import LoadedModels
from pointsman_gateway.classification.cascade import CascadeClassifier, TextEmbedder
from pointsman_gateway.classification.classifier_file import FitOrigin, fit_origin, load
from pointsman_gateway.classification.model import ClassifierModel, FitOrder, FitSettings, Intents
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import Config
from pointsman_gateway.embeddings.models import LocalEmbedder

log = logging.getLogger(__name__)

MAX_STORED_CLASSIFIERS = 32
FIT_PROGRAM = "pointsman_gateway.classification.fitting.fit"


@dataclass(frozen=True, slots=True)
class EmbeddingModels:
    static: StaticModel
    """A table with one vector for each token, for the classifier's static stage (the fast first one)."""
    local: Encoder
    """The embedding model for `/v1/embeddings`; it embeds texts without a prefix."""
    encoder: Prefixed
    """The embedding model for the classifier and for searches. It puts the model's prefix for queries before each of
    the texts."""
    folder: Path
    """The folder of MiniLM, the default embedding model; it also holds the static model."""
    config: EncoderConfig | None
    """The configured embedding model; None if MiniLM, the default, is used."""
    endpoint: LocalEmbedder | None
    """The embedding model in this process that answers `/v1/embeddings`; None if the embedding model is called at a
    URL."""

    @classmethod
    def load(cls, folder: Path, config: EncoderConfig | None = None) -> "EmbeddingModels":
        """Loads the embedding models. `config` describes the encoder; if it is None, the encoder is MiniLM, whose files
        are in `folder`.

        Raises ModelMissing if files in `folder` are missing or incomplete, ConfigError if the configured model cannot
        be used.
        """
        try:
            local = open_encoder(config, folder)
        except PointsmanError as error:
            raise ConfigError(f"models.yaml: {error.message}") from error
        endpoint = None if config and config.url else LocalEmbedder(local)
        static = StaticModel.load(folder, None if config else local.fingerprint)
        return cls(static, local, Prefixed(local, local.query_prefix), folder, config, endpoint)


def example_texts(config: Config) -> Mapping[str, Sequence[str]]:
    """Returns the example requests of each task: task -> texts."""
    return {task: [example.text for example in examples] for task, examples in config.examples.items()}


def example_intents(config: Config) -> Intents:
    """Returns the intent (a named part of a task) of each example request: task -> one intent for each of its examples.

    Tasks whose examples have no intents are left out.
    """
    return {
        task: [example.intent for example in examples]
        for task, examples in config.examples.items()
        if any(example.intent for example in examples)
    }


def fit_settings(config: Config) -> FitSettings:
    classifier = config.tasks.classifier
    own = {name: task.target_coverage for name, task in config.tasks.tasks.items() if task.target_coverage is not None}
    return FitSettings(classifier.target_coverage, own, classifier.stages, classifier.seed)


def origin(config: Config, models: EmbeddingModels) -> FitOrigin:
    """Returns hashes and versions of everything that a fitted classifier depends on: examples, settings, models and
    libraries.

    A stored classifier suits the configuration only if it was stored with an equal origin.
    """
    texts, intents = example_texts(config), example_intents(config)
    return fit_origin(texts, config.out_of_scope, models.static, models.encoder, fit_settings(config), intents)


def train_classifier(config: Config, models: EmbeddingModels, store: Path | None = None) -> LoadedModels:
    """Returns the classifier and the embedding models; fits the classifier in another process unless `store` has it.

    A fitted classifier is stored in the folder `store`, which keeps only the `MAX_STORED_CLASSIFIERS` that were used
    last; if `store` is None, it is not stored. Raises ConfigError if fitting fails, OSError if a file cannot be
    written.
    """
    fitted_on = origin(config, models)
    with tempfile.TemporaryDirectory(prefix="pointsman-fit-") as temporary:
        file = (store or Path(temporary)) / f"{fitted_on.digest}.classifier"
        fitted = _load_stored(file, fitted_on)
        if fitted is None:
            with _locked(file.with_suffix(".lock")):  # another gateway may be fitting the same one
                fitted = _load_stored(file, fitted_on) or _fit_in_process(config, models, file)
            if store:
                _remove_least_recently_used(store)
        return to_loaded(fitted, models)


def _load_stored(file: Path, fitted_on: FitOrigin) -> ClassifierModel | None:
    try:
        fitted = load(file, fitted_on)
    except FileNotFoundError:
        return None
    except PointsmanError as error:
        log.warning("the stored classifier is not used: %s", error.message)
        return None
    with suppress(OSError):  # the store may be read-only
        os.utime(file, ns=(time.time_ns(), file.stat().st_mtime_ns))
    return fitted


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """A context manager that waits until no other process has locked the file, and locks it during its block.

    Raises OSError if the file cannot be created.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def _fit_in_process(config: Config, models: EmbeddingModels, file: Path) -> ClassifierModel:
    started = time.perf_counter()
    order = FitOrder(
        example_texts(config),
        example_intents(config),
        config.out_of_scope,
        fit_settings(config),
        str(models.folder.resolve()),
        models.config.model_dump(mode="json") if models.config else None,
        str(file),
    )
    done = subprocess.run(
        [sys.executable, "-m", FIT_PROGRAM], input=order.to_json(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ConfigError(_reason(done))
    fitted = load(file, origin(config, models))
    examples, seconds = sum(map(len, config.examples.values())), time.perf_counter() - started
    log.info("trained on %d examples in %.1f s (accuracy out of fold %.3f)", examples, seconds, fitted.report.accuracy)
    return fitted


def _remove_least_recently_used(store: Path) -> None:
    files = sorted(store.glob("*.classifier"), key=lambda file: file.stat().st_atime, reverse=True)
    for file in files[MAX_STORED_CLASSIFIERS:]:
        file.unlink(missing_ok=True)
        file.with_suffix(".lock").unlink(missing_ok=True)


def _reason(failed: subprocess.CompletedProcess[str]) -> str:
    try:
        return str(json.loads(failed.stdout)["error"])
    except (ValueError, KeyError, TypeError):
        last = (failed.stderr.strip() or "it printed nothing").splitlines()[-1]
        return f"the classifier could not be trained: the process ended with status {failed.returncode}: {last}"


def load_classifier(file: Path, config: Config, models: EmbeddingModels) -> LoadedModels:
    """Returns the embedding models and a classifier from a file that `pointsman classifier fit` wrote.

    Raises ConfigError if the file is missing or cannot be read, or if the classifier was fitted on other examples,
    settings or models.
    """
    try:
        return to_loaded(load(file, origin(config, models)), models)
    except FileNotFoundError:
        raise ConfigError(f"there is no classifier {file}; `pointsman classifier fit` makes it") from None
    except PointsmanError as error:
        raise ConfigError(error.message) from error


class ClassifierCache:
    """Provides the classifier of each configuration, fitted or loaded from a file, and keeps the last one in memory."""

    def __init__(self, models: EmbeddingModels, file: Path | None, store: Path | None) -> None:
        """Takes a `file` with a fitted classifier to load, and the folder `store` for newly fitted ones.

        If `file` is None, classifiers are fitted; if `store` is None, they are not stored.
        """
        self._models, self._file, self._store = models, file, store
        self._last: tuple[FitOrigin, LoadedModels] | None = None

    @property
    def fingerprint(self) -> str:
        return self._models.encoder.fingerprint

    def get(self, config: Config) -> LoadedModels:
        """Returns the classifier and the embedding model of a configuration; takes seconds if the classifier must be
        fitted.

        Raises ConfigError if the configuration has another embedding model than at the start, if fitting fails, or if
        the classifier's file is missing or unsuitable; OSError if a fitted classifier cannot be stored.
        """
        if config.encoder != self._models.config:
            raise ConfigError("models.yaml: 'embedding' takes effect at the next start; restart gateway and retriever")
        if not config.tasks.tasks:
            return to_loaded(None, self._models)
        fitted_on = origin(config, self._models)
        if self._last is None or self._last[0] != fitted_on:
            if self._file:
                trained = load_classifier(self._file, config, self._models)
            else:
                trained = train_classifier(config, self._models, self._store)
            self._last = fitted_on, trained
        return self._last[1]


def to_loaded(fitted: ClassifierModel | None, models: EmbeddingModels) -> LoadedModels:
    """Combines the fitted classifier and the embedding models to one object; `fitted` is None if there are no tasks."""
    return LoadedModels(
        CascadeClassifier(fitted, models.static, models.encoder) if fitted else None,
        fitted.vectors if fitted else {},
        TextEmbedder(models.encoder, models.static),
        models.encoder.fingerprint,
        models.endpoint,
    )
