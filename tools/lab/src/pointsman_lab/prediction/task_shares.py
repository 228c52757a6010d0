"""Finds the probable tasks of evaluated requests, as the gateway's classifier will see such requests."""

from collections.abc import Mapping, Sequence

import numpy as np
from pointsman_gateway.bootstrap.models import EmbeddingModels, example_intents, example_texts, fit_settings
from pointsman_gateway.classification.cascade import CascadeClassifier
from pointsman_gateway.classification.fitting.fit import fit_classifier
from pointsman_gateway.config.load import Config
from pointsman_gateway.domain import UNKNOWN, Labels

from pointsman_lab.prediction.inputs import FOLDS, Array, folds_of
from pointsman_lab.report import Progress


def shares_of_tasks(
    texts: Sequence[str], tasks: Sequence[str], config: Config, models: EmbeddingModels, progress: Progress
) -> Array:
    """Returns the classifier's probability of each of `tasks` for each text, (texts, tasks).

    If the classifier finds no task (abstains), the task `UNKNOWN` has 1 and all other tasks have 0. A text that is one
    of the classifier's examples is classified by a classifier that was trained without this example, since new requests
    are not among the examples either. Raises InvalidArgument if the classifier cannot be trained.
    """
    examples = {text for of_task in example_texts(config).values() for text in of_task}
    is_example, shares = np.array([text in examples for text in texts]), np.zeros((len(texts), len(tasks)))
    folds = np.where(is_example, folds_of(len(texts)), FOLDS)
    for fold in np.unique(folds):
        rows = np.flatnonzero(folds == fold).tolist()
        classifier = _fit_without({texts[row] for row in rows if is_example[row]}, config, models, progress)
        for done, row in enumerate(rows, 1):
            found = _probabilities(classifier.classify_now(texts[row]))
            shares[row] = [found.get(task, 0.0) for task in tasks]
            progress("classifying", done, len(rows))
    return shares


def _probabilities(labels: Labels) -> Mapping[str, float]:
    return {UNKNOWN: 1.0} if labels.abstained else dict(labels.probabilities)


def _fit_without(left_out: set[str], config: Config, models: EmbeddingModels, progress: Progress) -> CascadeClassifier:
    """Fits the classifier without the examples `left_out`; a task keeps at least its first example."""
    texts, intents, settings = example_texts(config), example_intents(config), fit_settings(config)
    kept = {
        task: [row for row, text in enumerate(of_task) if text not in left_out] or [0]
        for task, of_task in texts.items()
    }
    fitted = fit_classifier(
        {task: [texts[task][row] for row in rows] for task, rows in kept.items()},
        config.out_of_scope,
        models.static,
        models.encoder,
        settings,
        progress,
        intents={task: [of_task[row] for row in kept[task]] for task, of_task in intents.items()},
    )
    return CascadeClassifier(fitted, models.static, models.encoder)
