"""Learns a classifier from examples: each stage on its own, then what they are worth together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pointsman_gateway.classification.calibration import calibration_error
from pointsman_gateway.classification.examples import FOLDS, Examples, gather
from pointsman_gateway.classification.familiarity import Scores, thresholds
from pointsman_gateway.classification.fitted import ENCODER, STATIC, Fitted, Gate, Lexicon, Report, Stage, Tuning
from pointsman_gateway.classification.gate import gate_of, passing, through
from pointsman_gateway.classification.judging import Judged, blend, judge, static_share
from pointsman_gateway.classification.learning import DenseFeatures, Learned, Learner, LexicalFeatures, Trial
from pointsman_gateway.classification.lexicon import Corpus
from pointsman_gateway.classification.softmax_regression import Floats
from pointsman_gateway.classification.stages import Encoder, StaticModel
from pointsman_gateway.classification.words import different, words_of

Progress = Callable[[str, int, int], None]
"""Phase ("embedding", "learning"), how much of it is done, how much there is."""

EMBEDDED_AT_ONCE = 64


def silent(phase: str, done: int, total: int) -> None:
    """For whom progress is of no interest."""


def fit_classifier(
    examples: Mapping[str, Sequence[str]],
    out_of_scope: Sequence[str],
    static_model: StaticModel,
    encoder: Encoder,
    tuning: Tuning,
    progress: Progress = silent,
) -> Fitted:
    """The same for the same arguments. Raises InvalidArgument: see `examples.gather`.

    Each stage is learned six times: with each fifth of the examples held out, to see what it makes of texts that are
    new to it, and from all of them. 15,000 examples of 150 tasks take two minutes on one core, a thousand two seconds.
    """
    # BLAS's threads spin while they wait for each other: beside a busy engine two took four times as long as one.
    with threadpool_limits(limits=1):
        return _fitting(examples, out_of_scope, static_model, encoder, tuning, progress).fitted()


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """What the stages together make of each example when they have not learned from it."""

    data: Examples
    vectors: Floats
    """(texts, dimensions): the encoder's."""
    judged: Judged


def out_of_fold(
    examples: Mapping[str, Sequence[str]],
    out_of_scope: Sequence[str],
    static_model: StaticModel,
    encoder: Encoder,
    tuning: Tuning,
    progress: Progress = silent,
) -> OutOfFold:
    """By which `fit_classifier` chooses its gate and thresholds. Raises InvalidArgument: see `examples.gather`."""
    with threadpool_limits(limits=1):
        fitting = _fitting(examples, out_of_scope, static_model, encoder, tuning, progress)
        return OutOfFold(fitting.data, fitting.encoded, fitting.verdict().outcome)


def _fitting(
    examples: Mapping[str, Sequence[str]],
    out_of_scope: Sequence[str],
    static_model: StaticModel,
    encoder: Encoder,
    tuning: Tuning,
    progress: Progress,
) -> "_Fitting":
    data = gather(examples, out_of_scope, static_model, tuning.seed)
    vectors = embedded(data.texts, encoder, progress)
    return _Fitting(data, vectors, _unit_sums(data.texts, static_model), tuning, progress)


def embedded(texts: Sequence[str], encoder: Encoder, progress: Progress) -> Floats:
    """(texts, dimensions); of at least one text."""
    parts = []
    for start in range(0, len(texts), EMBEDDED_AT_ONCE):
        progress("embedding", start, len(texts))
        parts.append(encoder.embed(texts[start : start + EMBEDDED_AT_ONCE]))
    progress("embedding", len(texts), len(texts))
    return np.concatenate(parts)


def _unit_sums(texts: Sequence[str], model: StaticModel) -> Floats:
    sums = np.stack([model.sum_of(" ".join(different(words_of(text)))) for text in texts])
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.asarray(sums / np.where(lengths > 0, lengths, 1), np.float32)


@dataclass(frozen=True, slots=True)
class _Verdict:
    static: Judged | None
    encoder: Judged | None
    share: float
    gate: Gate | None

    @property
    def outcome(self) -> Judged:
        """Of the stages together."""
        if self.static and self.encoder and self.gate:
            return through(self.gate, self.static, self.encoder)
        only = self.encoder or self.static
        assert only is not None  # the configuration allows no classifier without a stage
        return only

    @property
    def escalated(self) -> NDArray[np.bool_]:
        if self.static and self.gate:
            return ~passing(self.gate, self.static)
        return np.full(len(self.outcome.predicted), self.encoder is not None)


class _Fitting:
    def __init__(self, data: Examples, encoded: Floats, static: Floats, tuning: Tuning, progress: Progress) -> None:
        self.data, self.encoded, self._tuning, self._progress = data, encoded, tuning, progress
        self._corpus = Corpus(data.texts)
        self._learners: dict[str, Learner] = {}
        if STATIC in tuning.stages:
            self._learners[STATIC] = Learner(data, LexicalFeatures(static, self._corpus), static, tuning.seed)
        if ENCODER in tuning.stages:
            self._learners[ENCODER] = Learner(data, DenseFeatures(encoded), encoded, tuning.seed)
        self._steps = 0

    def fitted(self) -> Fitted:
        data = self.data
        verdict = self.verdict()
        target_coverages = [
            self._tuning.target_coverages.get(task, self._tuning.target_coverage) for task in data.tasks
        ]
        outcome = verdict.outcome
        lowest = thresholds(
            outcome.familiarity[data.inside], data.y[data.inside], outcome.predicted[data.inside], target_coverages
        )
        static, lexicon = self._static_stage(verdict.static) if verdict.static else (None, None)
        return Fitted(
            tasks=data.tasks,
            static=static,
            lexicon=lexicon,
            encoder=self._stage(ENCODER, self._learn(ENCODER), verdict.encoder) if verdict.encoder else None,
            static_share=verdict.share,
            gate=verdict.gate,
            thresholds=lowest,
            vectors={task: self.encoded[data.y == number] for number, task in enumerate(data.tasks)},
            report=_report(data, verdict, lowest),
        )

    def verdict(self) -> _Verdict:
        trials = {name: learner.tried(self._step) for name, learner in self._learners.items()}
        static = self._judged(trials[STATIC], trials[STATIC].logits) if STATIC in trials else None
        if ENCODER not in trials:
            return _Verdict(static, None, 0.0, None)
        if not static:
            return _Verdict(None, self._judged(trials[ENCODER], trials[ENCODER].logits), 0.0, None)
        share = static_share(self.data, trials[STATIC].logits, trials[ENCODER].logits)
        together = blend(trials[STATIC].logits, trials[ENCODER].logits, share)
        encoder = self._judged(trials[ENCODER], together)
        return _Verdict(static, encoder, share, gate_of(self.data, static, encoder))

    def _judged(self, trial: Trial, logits: Floats) -> Judged:
        return judge(self.data, trial, logits)

    def _static_stage(self, judged: Judged) -> tuple[Stage, Lexicon]:
        learned = self._learn(STATIC)
        _, pieces, pairs = learned.head.weights
        rarity = self._corpus.rarity(np.flatnonzero(self.data.inside))
        return self._stage(STATIC, learned, judged), self._corpus.lexicon(rarity, pieces, pairs)

    def _stage(self, name: str, learned: Learned, judged: Judged) -> Stage:
        head, foreign = learned.head, self._learners[name].foreign()
        return Stage(head.weights[0], head.bias, learned.prototypes, foreign, judged.temperature, judged.scale)

    def _learn(self, name: str) -> Learned:
        learned = self._learners[name].learn(np.flatnonzero(self.data.inside))
        self._step()
        return learned

    def _step(self) -> None:
        self._steps += 1
        self._progress("learning", self._steps, len(self._learners) * (FOLDS + 1))


def _report(data: Examples, verdict: _Verdict, lowest: Scores) -> Report:
    outcome, inside = verdict.outcome, data.inside
    right = outcome.predicted[inside] == data.y[inside]
    kept = outcome.familiarity >= lowest[outcome.predicted]
    return Report(
        accuracy=float(right.mean()),
        calibration_error=calibration_error(outcome.confidence[inside], right),
        kept=float(kept[inside].mean()),
        escalated=float(verdict.escalated[inside].mean()),
        foreign_abstained=float((~kept[~inside]).mean()) if not inside.all() else 0.0,
    )
