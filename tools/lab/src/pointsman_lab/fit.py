"""The `fit` command: trains a configuration's classifier and writes it to a file."""

import hashlib
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointsman_gateway.bootstrap.models import EmbeddingModels, example_intents, example_texts, fit_settings, origin
from pointsman_gateway.classification.classifier_file import save
from pointsman_gateway.classification.fitting.fit import fit_classifier
from pointsman_gateway.classification.model import ClassifierModel
from pointsman_gateway.config.load import Config

from pointsman_lab.report import Progress, Report, Section

ARTIFACT = "classifier.artifact"
"""The classifier's default file name in the configuration's folder."""

KIB_IN_MIB = 1024


@dataclass(frozen=True, slots=True)
class ClassifierFile:
    """A trained classifier in a file: its size in bytes, a digest of its content, and the seconds that the training
    took.
    """

    file: Path
    digest: str
    size_bytes: int
    training_seconds: float


def fit(config: Config, models: EmbeddingModels, out: Path | None, progress: Progress) -> Report:
    """Trains the classifier on the examples of the configuration, writes it to a file, and returns a report.

    The file is `out`, by default ARTIFACT in the configuration's folder. The report has thresholds by task, and
    accuracy and coverage measured by cross-validation. `models` are the embedding models that the classifier uses.
    Raises ConfigError or InvalidArgument if the classifier cannot be trained, OSError if the file cannot be written.
    """
    file = out or config.folder / ARTIFACT
    started = time.perf_counter()
    fitted = fit_model(config, models, progress)
    save(fitted, origin(config, models), file)
    written = _describe(file, time.perf_counter() - started)
    return _report(config, fitted, written)


def fit_model(config: Config, models: EmbeddingModels, progress: Progress) -> ClassifierModel:
    """Trains the classifier on the examples of the configuration, and returns it without writing a file.

    `models` are the embedding models that the classifier uses; `progress` is called during the training. Raises
    InvalidArgument if the classifier cannot be trained.
    """
    texts, intents, settings = example_texts(config), example_intents(config), fit_settings(config)
    return fit_classifier(
        texts, config.out_of_scope, models.static, models.encoder, settings, progress, intents=intents
    )


def _describe(file: Path, seconds: float) -> ClassifierFile:
    content = file.read_bytes()
    return ClassifierFile(file, hashlib.sha256(content).hexdigest()[:16], len(content), seconds)


def _report(config: Config, fitted: ClassifierModel, written: ClassifierFile) -> Report:
    tasks = [
        {
            "task": task,
            "examples": len(config.examples[task]),
            "classes": int(classes),
            "target_coverage": config.tasks.tasks[task].target_coverage or config.tasks.classifier.target_coverage,
            "threshold": float(threshold),
        }
        for task, classes, threshold in zip(fitted.tasks, fitted.classes.sizes, fitted.thresholds, strict=True)
    ]
    found = fitted.report
    facts = {
        "file": str(written.file),
        "digest": written.digest,
        "bytes": written.size_bytes,
        "seconds": round(written.training_seconds, 3),
        "max_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB_IN_MIB),
        "tasks": tasks,
        "examples": sum(len(examples) for examples in config.examples.values()),
        "out_of_scope": len(config.out_of_scope),
        "stages": list(config.tasks.classifier.stages),
        "out_of_fold": {
            "accuracy": found.accuracy,
            "calibration_error": found.calibration_error,
            "coverage": found.coverage,
            "classified_by_encoder": found.escalated,
            "out_of_scope_abstained": found.out_of_scope_abstained if config.out_of_scope else None,
        },
    }
    return Report(facts, (Section("The classifier", tuple(_lines(facts))), _by_task(tasks)))


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    found = facts["out_of_fold"]
    yield f"{len(facts['tasks'])} tasks, {facts['examples']} examples, {facts['out_of_scope']} out-of-scope texts"
    yield (
        f"out of fold: accuracy {found['accuracy']:.3f}, calibration error (ECE) {found['calibration_error']:.3f}, "
        f"coverage {found['coverage']:.3f}, classified by the encoder {found['classified_by_encoder']:.3f}"
    )
    if found["out_of_scope_abstained"] is not None:
        yield f"of the out-of-scope texts, the classifier abstains from {found['out_of_scope_abstained']:.3f}"
    yield f"{facts['seconds']:.1f} s, {facts['max_memory_mib']} MiB of memory at most"
    yield f"{facts['file']}: {facts['bytes']} bytes, digest {facts['digest']}"


def _by_task(tasks: list[dict[str, Any]]) -> Section:
    """Returns a table of the tasks. A task's classes are its intents and, if there are any, its other examples."""
    rows = tuple(
        (t["task"], str(t["examples"]), str(t["classes"]), f"{t['target_coverage']:g}", f"{t['threshold']:.3f}")
        for t in tasks
    )
    return Section("By task", columns=("task", "examples", "classes", "target coverage", "threshold"), rows=rows)
