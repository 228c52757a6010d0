"""The models, what a configuration says is to be learned with them, and the classifier that comes of it."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pointsman_embedding import MiniLM, StaticModel
from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.bootstrap.stages import Learned
from pointsman_gateway.classification.artifact import FitOrigin, fit_origin, load
from pointsman_gateway.classification.cascade import CascadeClassifier
from pointsman_gateway.classification.fitting.fit import Progress, fit_classifier, no_progress
from pointsman_gateway.classification.model import ClassifierModel, FitSettings
from pointsman_gateway.config.load import Config, ConfigError
from pointsman_gateway.config.schema import EmbeddingConfig
from pointsman_gateway.embeddings.engine import Endpoint, EngineModel
from pointsman_gateway.embeddings.local import Encoder, LocalModel
from pointsman_gateway.embeddings.stage import EmbeddingMetrics, Embeddings, Journal, Offer, Tenancy
from pointsman_gateway.engines.http1 import Pool, origin_of
from pointsman_gateway.engines.http_post import PooledPoster
from pointsman_gateway.metering.gen_ai import OPENAI, POINTSMAN
from pointsman_gateway.pipeline.ports import HttpPoster
from pointsman_gateway.tracing.instrumentation import Around

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Models:
    static: StaticModel
    encoder: MiniLM

    @classmethod
    def load(cls, folder: Path) -> "Models":
        """Raises ModelMissing."""
        return cls(StaticModel.load(folder), MiniLM.load(folder))


def texts_of(config: Config) -> Mapping[str, Sequence[str]]:
    """By task."""
    return {task: [example.text for example in examples] for task, examples in config.examples.items()}


def tuning_of(config: Config) -> FitSettings:
    classifier = config.tasks.classifier
    own = {name: task.target_coverage for name, task in config.tasks.tasks.items() if task.target_coverage is not None}
    return FitSettings(classifier.target_coverage, own, classifier.stages, classifier.seed)


def origin(config: Config, models: Models) -> FitOrigin:
    return fit_origin(texts_of(config), config.out_of_scope, models.static, models.encoder, tuning_of(config))


def learn(config: Config, models: Models, progress: Progress = no_progress) -> Learned:
    """Raises ConfigError."""
    started = time.perf_counter()
    try:
        fitted = fit_classifier(
            texts_of(config), config.out_of_scope, models.static, models.encoder, tuning_of(config), progress
        )
    except PointsmanError as error:
        raise ConfigError(error.message) from error
    examples, took = sum(map(len, config.examples.values())), time.perf_counter() - started
    log.info("learned from %d examples in %.1f s (accuracy out of fold %.3f)", examples, took, fitted.accuracy)
    return _learned(fitted, models)


def read(file: Path, config: Config, models: Models) -> Learned:
    """What `pointsman classifier fit` wrote. Raises ConfigError where it is not whole, or of something else."""
    try:
        return _learned(load(file, origin(config, models)), models)
    except FileNotFoundError:
        raise ConfigError(f"there is no classifier {file}; `pointsman classifier fit` makes it") from None
    except PointsmanError as error:
        raise ConfigError(error.message) from error


class School:
    """Learns as the configuration wants it, or reads the artefact that it was told to serve by; the last is kept."""

    def __init__(self, models: Models, artefact: Path | None) -> None:
        self._models, self._artefact = models, artefact
        self._known: tuple[FitOrigin, Learned] | None = None

    def learned(self, config: Config) -> Learned:
        """Raises ConfigError."""
        wanted = origin(config, self._models)
        if self._known is None or self._known[0] != wanted:
            made = read(self._artefact, config, self._models) if self._artefact else learn(config, self._models)
            self._known = wanted, made
        return self._known[1]


def _learned(fitted: ClassifierModel, models: Models) -> Learned:
    return Learned(CascadeClassifier(fitted, models.static, models.encoder), fitted.vectors)


@dataclass(frozen=True, slots=True)
class EmbeddingSurroundings:
    """What stays while generations come and go."""

    own: LocalModel
    name: str
    """Of the gateway's own model: its fingerprint."""
    http: HttpPoster
    tenancy: Tenancy
    metrics: EmbeddingMetrics
    journal: Journal
    traced: Around


def embedding_surroundings(
    encoder: Encoder, pool: Pool, tenancy: Tenancy, metrics: EmbeddingMetrics, journal: Journal, traced: Around
) -> EmbeddingSurroundings:
    own, http = LocalModel(encoder), PooledPoster(pool, traced.heads)
    return EmbeddingSurroundings(own, encoder.fingerprint, http, tenancy, metrics, journal, traced)


def build_embeddings(config: Config, around: EmbeddingSurroundings) -> Embeddings:
    """Raises ConfigError."""
    offers: dict[str, Offer] = {}
    for name, model in config.models.embeddings.items():
        if model.local:
            # By its fingerprint too: who keeps vectors wants to say exactly which model made them.
            own = around.traced.embedder(around.own, name, POINTSMAN)
            offers[name] = offers[around.name] = Offer(name, own, model.usd_per_million_tokens)
        else:
            there = EngineModel(_endpoint(name, model), around.http)
            offers[name] = Offer(name, around.traced.embedder(there, name, OPENAI), model.usd_per_million_tokens)
    offers |= {alias: offers[name] for alias, name in config.models.aliases.items() if name in offers}
    return Embeddings(offers, around.tenancy, around.metrics, around.journal)


def _endpoint(name: str, model: EmbeddingConfig, environment: Mapping[str, str] = os.environ) -> Endpoint:
    api_key = environment.get(model.api_key_env, "") if model.api_key_env else ""
    if model.api_key_env and not api_key:
        raise ConfigError(
            f"models.yaml: embedding model '{name}' needs the environment variable {model.api_key_env}, "
            "which is not set"
        )
    try:
        origin_of(model.url)
    except ValueError as error:
        raise ConfigError(f"models.yaml: embedding model '{name}': {error}") from error
    return Endpoint(name, model.url.rstrip("/"), model.model or name, api_key)
