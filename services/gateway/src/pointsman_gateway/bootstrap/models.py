"""Loads the embedding models, trains or loads the classifier, and builds the models of `/v1/embeddings`."""

import fcntl
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pointsman_embedding import Encoder, EncoderConfig, Prefixed, StaticModel, open_encoder
from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.bootstrap.engine_discovery import check_url
from pointsman_gateway.bootstrap.stages import TrainedClassifier
from pointsman_gateway.classification.cascade import CascadeClassifier
from pointsman_gateway.classification.model import ClassifierModel, FitOrder, FitOrigin, FitSettings, fit_origin, load
from pointsman_gateway.config.load import Config, ConfigError
from pointsman_gateway.config.models_file import EmbeddingConfig
from pointsman_gateway.config.providers import auth_header
from pointsman_gateway.embeddings.models import EmbeddingEndpoint, LocalEmbedder, RemoteEmbedder
from pointsman_gateway.embeddings.stage import EmbeddingMetrics, Embeddings, PricedModel
from pointsman_gateway.engines.http1 import Pool
from pointsman_gateway.engines.http_post import PooledPoster
from pointsman_gateway.metering.gen_ai import POINTSMAN
from pointsman_gateway.pipeline.ports import HttpPoster, RequestLog, Tenancy
from pointsman_gateway.tracing import Instrumentation

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EmbeddingModels:
    static: StaticModel
    local: Encoder
    """The model as it is, for `/v1/embeddings`."""
    encoder: Prefixed
    """The same with the prefix of queries, for the classifier and for searches."""
    folder: Path
    """MiniLM's folder, which has the static model too."""
    config: EncoderConfig | None
    """None: `local` is MiniLM."""

    @classmethod
    def load(cls, folder: Path, config: EncoderConfig | None = None) -> "EmbeddingModels":
        """Loads the embedding models; raises ModelMissing, or ConfigError if the configured one cannot be used."""
        try:
            local = open_encoder(config, folder)
        except PointsmanError as error:
            raise ConfigError(f"models.yaml: {error.message}") from error
        return cls(StaticModel.load(folder), local, Prefixed(local, local.query_prefix), folder, config)


def example_texts(config: Config) -> Mapping[str, Sequence[str]]:
    """Returns the texts of each task's examples."""
    return {task: [example.text for example in examples] for task, examples in config.examples.items()}


def fit_settings(config: Config) -> FitSettings:
    classifier = config.tasks.classifier
    own = {name: task.target_coverage for name, task in config.tasks.tasks.items() if task.target_coverage is not None}
    return FitSettings(classifier.target_coverage, own, classifier.stages, classifier.seed)


def origin(config: Config, models: EmbeddingModels) -> FitOrigin:
    """Returns everything that the classifier depends on, to recognize whether a fitted one is current."""
    return fit_origin(example_texts(config), config.out_of_scope, models.static, models.encoder, fit_settings(config))


MAX_STORED_CLASSIFIERS = 32
FIT_PROGRAM = "pointsman_gateway.classification.fitting.fit"


def train_classifier(config: Config, models: EmbeddingModels, store: Path | None = None) -> TrainedClassifier:
    """Fits the classifier in a process of its own, unless an earlier fit left it in the folder `store`.

    Raises ConfigError.
    """
    fitted_on = origin(config, models)
    with tempfile.TemporaryDirectory(prefix="pointsman-fit-") as temporary:
        file = (store or Path(temporary)) / f"{fitted_on.digest}.classifier"
        fitted = _load_stored(file, fitted_on)
        if fitted is None:
            with _locked(file.with_suffix(".lock")):  # another gateway may be fitting the same one
                fitted = _load_stored(file, fitted_on) or _fit_in_process(config, models, file)
            if store:
                _remove_oldest(store)
        return to_trained(fitted, models)


def _load_stored(file: Path, fitted_on: FitOrigin) -> ClassifierModel | None:
    try:
        return load(file, fitted_on)
    except FileNotFoundError:
        return None
    except PointsmanError as error:
        log.warning("the stored classifier is not used: %s", error.message)
        return None


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Waits until no other process has locked this file, and locks it for the length of the block."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def _fit_in_process(config: Config, models: EmbeddingModels, file: Path) -> ClassifierModel:
    started = time.perf_counter()
    order = FitOrder(
        example_texts(config),
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


def _remove_oldest(store: Path) -> None:
    files = sorted(store.glob("*.classifier"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files[MAX_STORED_CLASSIFIERS:]:
        file.unlink(missing_ok=True)
        file.with_suffix(".lock").unlink(missing_ok=True)


def _reason(failed: subprocess.CompletedProcess[str]) -> str:
    try:
        return str(json.loads(failed.stdout)["error"])
    except (ValueError, KeyError, TypeError):
        last = (failed.stderr.strip() or "it printed nothing").splitlines()[-1]
        return f"the classifier could not be trained: the process ended with status {failed.returncode}: {last}"


def load_classifier(file: Path, config: Config, models: EmbeddingModels) -> TrainedClassifier:
    """Loads a classifier from a file that `pointsman classifier fit` wrote.

    Raises ConfigError if it is missing or damaged, or was fitted on other examples, settings or models.
    """
    try:
        return to_trained(load(file, origin(config, models)), models)
    except FileNotFoundError:
        raise ConfigError(f"there is no classifier {file}; `pointsman classifier fit` makes it") from None
    except PointsmanError as error:
        raise ConfigError(error.message) from error


class ClassifierCache:
    """Trains the classifier of a configuration, or loads it from a file; keeps the last one."""

    def __init__(self, models: EmbeddingModels, file: Path | None, store: Path | None) -> None:
        """Takes a `file` with a classifier to use instead of training, and a folder to `store` trained ones in."""
        self._models, self._file, self._store = models, file, store
        self._last: tuple[FitOrigin, TrainedClassifier] | None = None

    def get(self, config: Config) -> TrainedClassifier:
        """Returns a configuration's classifier; takes seconds if its examples are new. Raises ConfigError."""
        if config.encoder != self._models.config:
            raise ConfigError("models.yaml: 'embedding' takes effect at the next start; restart gateway and retriever")
        fitted_on = origin(config, self._models)
        if self._last is None or self._last[0] != fitted_on:
            if self._file:
                trained = load_classifier(self._file, config, self._models)
            else:
                trained = train_classifier(config, self._models, self._store)
            self._last = fitted_on, trained
        return self._last[1]


def to_trained(fitted: ClassifierModel, models: EmbeddingModels) -> TrainedClassifier:
    return TrainedClassifier(CascadeClassifier(fitted, models.static, models.encoder), fitted.vectors)


@dataclass(frozen=True, slots=True)
class EmbeddingDependencies:
    """The parts that the embedding models of all configurations share."""

    local: LocalEmbedder | None
    """None if the model is behind an endpoint."""
    local_name: str
    """The fingerprint of the gateway's own model."""
    http: HttpPoster
    tenancy: Tenancy
    metrics: EmbeddingMetrics
    request_log: RequestLog
    tracing: Instrumentation

    @classmethod
    def create(
        cls,
        models: EmbeddingModels,
        pool: Pool,
        tenancy: Tenancy,
        metrics: EmbeddingMetrics,
        request_log: RequestLog,
        tracing: Instrumentation,
    ) -> "EmbeddingDependencies":
        is_remote = models.config is not None and bool(models.config.url)
        local, http = None if is_remote else LocalEmbedder(models.local), PooledPoster(pool, tracing.trace_headers)
        return cls(local, models.local.fingerprint, http, tenancy, metrics, request_log, tracing)


def build_embeddings(config: Config, dependencies: EmbeddingDependencies) -> Embeddings:
    """Builds the models of `/v1/embeddings`; raises ConfigError."""
    models: dict[str, PricedModel] = {}
    traced = dependencies.tracing.embedder
    for name, model in config.models.embeddings.items():
        price = model.usd_per_million_tokens
        if model.local:
            if dependencies.local is None:
                raise ConfigError(f"models.yaml: embeddings.{name}: no model is local, since 'embedding' has a url")
            # Also by its fingerprint, for clients that store vectors and must name the exact model.
            local = PricedModel(name, traced(dependencies.local.with_overflow(model.overflow), name, POINTSMAN), price)
            models[name] = models[dependencies.local_name] = local
        else:
            remote = RemoteEmbedder(_endpoint(name, model), dependencies.http)
            provider = model.preset.gen_ai_provider
            models[name] = PricedModel(name, traced(remote, name, provider), price)
    models |= {alias: models[name] for alias, name in config.models.aliases.items() if name in models}
    return Embeddings(models, dependencies.tenancy, dependencies.metrics, dependencies.request_log)


def _endpoint(name: str, model: EmbeddingConfig) -> EmbeddingEndpoint:
    what, upstream = f"embedding model '{name}'", model.model or name
    header = auth_header(what, model.preset, model.api_key_env)
    check_url(what, model.base_url)
    api = model.preset.api(upstream, model.url_parts, header)
    return EmbeddingEndpoint(name, model.base_url + api.embeddings_path, upstream, header)
