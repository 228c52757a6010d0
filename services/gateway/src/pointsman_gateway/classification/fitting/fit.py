"""Trains the classifier: trains each stage (static and encoder) on examples, then selects how both work together.

    python -m pointsman_gateway.classification.fitting.fit <ORDER

reads a JSON object (`FitOrder`) from standard input and writes the trained classifier to the file that the object
names. The gateway runs this command as a separate process: its memory is freed afterwards, and it does not compete with
the event loop for the interpreter lock.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pointsman_embedding import EncoderConfig, ModelMissing, Prefixed, open_encoder
from pointsman_embedding import StaticModel as TokenTable
from pointsman_servicekit.errors import PointsmanError
from threadpoolctl import threadpool_limits

from pointsman_gateway.classification.classifier_file import fit_origin, save
from pointsman_gateway.classification.fitting.examples import (
    FOLDS,
    PRIOR_TEXTS,
    Corpus,
    Examples,
    Rows,
    collect_examples,
)
from pointsman_gateway.classification.fitting.learner import (
    DenseFeatures,
    FittedStage,
    LexicalFeatures,
    StageLearner,
)
from pointsman_gateway.classification.fitting.selection import (
    StageResults,
    best_static_share,
    blend,
    cascade_results,
    evaluate_stage,
    fit_threshold,
    passes,
)
from pointsman_gateway.classification.model import (
    ENCODER,
    NO_INTENTS,
    STATIC,
    CascadeThreshold,
    ClassifierModel,
    EncoderAlone,
    FitOrder,
    FitReport,
    FitSettings,
    Intents,
    PairRatios,
    SentenceEncoder,
    StageParameters,
    StaticModel,
    Vocabulary,
)
from pointsman_gateway.classification.scores import Floats, Scores, calibration_error, task_thresholds
from pointsman_gateway.classification.words import unique_words, words_of

Progress = Callable[[str, int, int], None]
"""A callback for progress. Its arguments are the phase ("embedding" or "learning"), the number of steps done, and the
number of all steps of the phase.
"""

EMBEDDING_BATCH = 64


def no_progress(phase: str, done: int, total: int) -> None:
    """The default `Progress`, which reports nothing."""


def fit_classifier(
    examples: Mapping[str, Sequence[str]],
    out_of_scope: Sequence[str],
    static_model: StaticModel,
    encoder: SentenceEncoder,
    settings: FitSettings,
    progress: Progress = no_progress,
    *,
    intents: Intents = NO_INTENTS,
) -> ClassifierModel:
    """Trains a classifier on the `examples` of each task and on `out_of_scope` texts, which belong to no task.

    `out_of_scope` may be empty. Equal arguments give equal results. Each stage is trained six times: five times with a
    fifth of the examples held out, to measure it on texts that are new to it, and once on all of them. 15,000 examples
    of 150 tasks take two minutes on one core, 1,000 examples two seconds. Raises InvalidArgument if there are fewer
    than two tasks or a task has no example, and Unavailable if the encoder is an endpoint that fails.
    """
    # BLAS threads busy-wait for each other: beside a busy engine two of them took four times as long as one.
    with threadpool_limits(limits=1):
        data = collect_examples(examples, out_of_scope, static_model, settings.seed, intents)
        return _prepare(data, static_model, encoder, settings, progress).model()


@dataclass(frozen=True, slots=True)
class OutOfFoldResults:
    """The classifier's results on each training text, computed by models that were not trained on the text."""

    data: Examples
    vectors: Floats
    """The encoder's vectors of the training texts, (texts, dimensions)."""
    results: StageResults
    """The results of the static and the encoder stage together, or of the only stage that is configured."""


def out_of_fold_results(
    examples: Mapping[str, Sequence[str]],
    out_of_scope: Sequence[str],
    static_model: StaticModel,
    encoder: SentenceEncoder,
    settings: FitSettings,
    progress: Progress = no_progress,
    *,
    intents: Intents = NO_INTENTS,
) -> OutOfFoldResults:
    """Returns the cross-validation results from which `fit_classifier` computes the thresholds for abstaining.

    Takes the same arguments as `fit_classifier`, and raises the same errors.
    """
    with threadpool_limits(limits=1):
        data = collect_examples(examples, out_of_scope, static_model, settings.seed, intents)
        run = _prepare(data, static_model, encoder, settings, progress)
        return OutOfFoldResults(run.data, run.encoded, run.select().results)


def embed_all(texts: Sequence[str], encoder: SentenceEncoder, progress: Progress) -> Floats:
    """Embeds one or more texts, and reports the progress in steps of texts; returns an array (texts, dimensions).

    Raises Unavailable if the encoder is an endpoint that fails.
    """
    parts = []
    for start in range(0, len(texts), EMBEDDING_BATCH):
        progress("embedding", start, len(texts))
        parts.append(encoder.embed(texts[start : start + EMBEDDING_BATCH]))
    progress("embedding", len(texts), len(texts))
    return np.concatenate(parts)


def _prepare(
    data: Examples, static_model: StaticModel, encoder: SentenceEncoder, settings: FitSettings, progress: Progress
) -> "_FitRun":
    vectors = embed_all(data.texts, encoder, progress)
    return _FitRun(data, vectors, _unit_sums(data.texts, static_model), settings, progress)


def _unit_sums(texts: Sequence[str], model: StaticModel) -> Floats:
    sums = np.stack([model.sum_of(" ".join(unique_words(words_of(text)))) for text in texts])
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.asarray(sums / np.where(lengths > 0, lengths, 1), np.float32)


@dataclass(frozen=True, slots=True)
class _Selection:
    """The cross-validation results of each stage on the training texts, and how the stages are combined.

    A stage that is not configured is None.
    """

    static: StageResults | None
    encoder: StageResults | None
    alone: StageResults | None
    """The results of the encoder without the static stage; None if there is only one stage."""
    pair_means: Floats
    static_share: float
    threshold: CascadeThreshold | None

    @property
    def results(self) -> StageResults:
        """Returns the results of both stages together, or of the only stage."""
        if self.static and self.encoder and self.threshold:
            return cascade_results(self.threshold, self.static, self.encoder)
        only = self.encoder or self.static
        assert only is not None  # the configuration requires at least one stage
        return only

    @property
    def escalated(self) -> NDArray[np.bool_]:
        """Returns for each text whether the encoder must classify it because the static stage is not sure, (texts,)."""
        if self.static and self.threshold:
            return ~passes(self.threshold, self.static)
        return np.full(len(self.results.predicted), self.encoder is not None)


class _FitRun:
    """One training of the classifier: the training data, and a `StageLearner` for each configured stage."""

    def __init__(
        self, data: Examples, encoded: Floats, static: Floats, settings: FitSettings, progress: Progress
    ) -> None:
        self.data, self.encoded, self._settings, self._progress = data, encoded, settings, progress
        self._corpus = Corpus(data.texts)
        self._learners: dict[str, StageLearner] = {}
        if STATIC in settings.stages:
            self._learners[STATIC] = StageLearner(data, LexicalFeatures(static, self._corpus), static, settings.seed)
        if ENCODER in settings.stages:
            self._learners[ENCODER] = StageLearner(data, DenseFeatures(encoded), encoded, settings.seed)
        self._steps = 0

    def model(self) -> ClassifierModel:
        data = self.data
        selection = self.select()
        alone, thresholds = selection.alone, self._thresholds(selection.results)
        static, vocabulary = (
            self._static_stage(selection.static, selection.pair_means) if selection.static else (None, None)
        )
        return ClassifierModel(
            tasks=data.tasks,
            classes=data.classes,
            static=static,
            vocabulary=vocabulary,
            encoder=self._stage(ENCODER, self._fit(ENCODER), selection.encoder) if selection.encoder else None,
            static_share=selection.static_share,
            threshold=selection.threshold,
            thresholds=thresholds,
            alone=EncoderAlone(alone.temperature, alone.scale, self._thresholds(alone)) if alone else None,
            words=tuple(sorted({word for text in data.texts for word in words_of(text)})),
            vectors={task: self.encoded[data.y == number] for number, task in enumerate(data.tasks)},
            report=_report(data, selection, thresholds),
        )

    def _thresholds(self, results: StageResults) -> NDArray[np.float64]:
        data, settings = self.data, self._settings
        coverages = [settings.target_coverages.get(task, settings.target_coverage) for task in data.tasks]
        inside = data.inside
        return task_thresholds(results.score[inside], data.y[inside], results.predicted[inside], coverages)

    def select(self) -> _Selection:
        """Cross-validates the configured stages, and selects how they are combined."""
        data = self.data
        scores = {name: learner.cross_validate(self._step_done) for name, learner in self._learners.items()}
        pairs, means = self._out_of_fold_pair_scores()
        pairs = pairs - means
        static = evaluate_stage(data, scores[STATIC], scores[STATIC].logits, pairs) if STATIC in scores else None
        if ENCODER not in scores:
            return _Selection(static, None, None, means, 0.0, None)
        if not static:
            only = evaluate_stage(data, scores[ENCODER], scores[ENCODER].logits, pairs)
            return _Selection(None, only, None, means, 0.0, None)
        share = best_static_share(data, scores[STATIC].logits, scores[ENCODER].logits)
        blended = blend(scores[STATIC].logits, scores[ENCODER].logits, share)
        encoder = evaluate_stage(data, scores[ENCODER], blended, pairs)
        alone = evaluate_stage(data, scores[ENCODER], scores[ENCODER].logits, np.zeros_like(pairs))
        return _Selection(static, encoder, alone, means, share, fit_threshold(data, static, encoder))

    def _out_of_fold_pair_scores(self) -> tuple[Floats, Floats]:
        """Returns (the pair scores of each text, (texts, classes), `PairRatios.means`).

        A text's pair scores use ratios from the other folds. All values are 0 without a static stage. For the mean of a
        class, `PRIOR_TEXTS` texts with the mean score of all texts are added to the class's own texts.
        """
        data, classes = self.data, self.data.classes.count
        scores = np.zeros((len(data.y), classes), np.float32)
        for fold in range(FOLDS) if STATIC in self._learners else ():
            held_out, rows = np.flatnonzero(data.folds == fold), np.flatnonzero((data.folds != fold) & data.inside)
            scores[held_out] = self._corpus.pair_scores(held_out, rows, self._pair_ratios(rows))
        y = data.own_classes[data.inside]
        own = scores[data.inside][np.arange(len(y)), y]
        sums = np.bincount(y, own, classes) + PRIOR_TEXTS * own.mean()
        return scores, np.asarray(sums / (np.bincount(y, minlength=classes) + PRIOR_TEXTS), np.float32)

    def _pair_ratios(self, rows: Rows) -> NDArray[np.int8]:
        return self._corpus.pair_ratios(rows, self.data.own_classes[rows], self.data.classes.count)

    def _static_stage(self, results: StageResults, pair_means: Floats) -> tuple[StageParameters, Vocabulary]:
        fitted, rows = self._fit(STATIC), np.flatnonzero(self.data.inside)
        _, pieces, pairs = fitted.head.weights
        ratios = PairRatios(self._pair_ratios(rows), pair_means)
        vocabulary = self._corpus.vocabulary(self._corpus.rarity(rows), pieces, pairs, ratios)
        return self._stage(STATIC, fitted, results), vocabulary

    def _stage(self, name: str, fitted: FittedStage, results: StageResults) -> StageParameters:
        head, out_of_scope = fitted.head, self._learners[name].out_of_scope_centroids()
        return StageParameters(
            head.weights[0], head.bias, fitted.centroids, out_of_scope, results.temperature, results.scale
        )

    def _fit(self, name: str) -> FittedStage:
        fitted = self._learners[name].fit(np.flatnonzero(self.data.inside))
        self._step_done()
        return fitted

    def _step_done(self) -> None:
        self._steps += 1
        self._progress("learning", self._steps, len(self._learners) * (FOLDS + 1))


def _report(data: Examples, selection: _Selection, thresholds: Scores) -> FitReport:
    results, inside = selection.results, data.inside
    right = results.predicted[inside] == data.y[inside]
    accepted = results.score >= thresholds[results.predicted]
    return FitReport(
        accuracy=float(right.mean()),
        calibration_error=calibration_error(results.confidence[inside], right),
        coverage=float(accepted[inside].mean()),
        escalated=float(selection.escalated[inside].mean()),
        out_of_scope_abstained=float((~accepted[~inside]).mean()) if not inside.all() else 0.0,
    )


def main() -> int:
    """Trains a classifier by the `FitOrder` on standard input, writes it to the file `out`, and returns 0.

    If training fails with a PointsmanError, or with ModelMissing because the built-in models are absent, prints
    {"error": MESSAGE} as JSON and returns 2. Other errors are raised, such as the OSError of `save`.
    """
    order = FitOrder.from_json(sys.stdin.read())
    config, folder = EncoderConfig.model_validate(order.encoder) if order.encoder else None, Path(order.models)
    try:
        model = open_encoder(config, folder)
        static = TokenTable.load(folder, None if config else model.fingerprint)
        encoder = Prefixed(model, model.query_prefix)
        fitted = fit_classifier(
            order.examples, order.out_of_scope, static, encoder, order.settings, intents=order.intents
        )
    except (PointsmanError, ModelMissing) as error:
        print(json.dumps({"error": str(error)}))
        return 2
    origin = fit_origin(order.examples, order.out_of_scope, static, encoder, order.settings, order.intents)
    save(fitted, origin, Path(order.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
