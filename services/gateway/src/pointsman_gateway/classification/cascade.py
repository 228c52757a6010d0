"""The classifier: a static stage that takes microseconds, and an encoder stage for texts on which it is not sure.

The static stage classifies by the words, word pieces and word pairs of a text, and caches the feature rows of recent
words. The encoder stage classifies by the embedding of the whole text.
"""

import asyncio
import logging
import math
from copy import copy
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pointsman_servicekit.errors import Unavailable

from pointsman_gateway.classification.document_signals import DocumentSignals
from pointsman_gateway.classification.excerpt import TokenExcerpt, encodable, token_excerpt
from pointsman_gateway.classification.model import (
    ENCODER,
    PAIR_RATIO_STEP,
    STATIC,
    ClassifierModel,
    EncoderAlone,
    SentenceEncoder,
    StageParameters,
    StaticModel,
    Vocabulary,
)
from pointsman_gateway.classification.reader import FAILED_NOTE
from pointsman_gateway.classification.scores import Floats, Scale, probabilities
from pointsman_gateway.classification.words import EDGE, WordRowCache, pairs_of, pieces_of, unique_words, words_of
from pointsman_gateway.domain import UNKNOWN, Labels, Vector

log = logging.getLogger(__name__)

UNREADABLE_SCORE = -100.0
"""In-distribution score of a text without a known word or token; lower than that of any other text."""

UNREADABLE_NOTE = "nothing in it that can be read"


@dataclass(frozen=True, slots=True)
class StageOutput:
    """What one stage of the classifier (the static stage or the encoder stage) computed for a text."""

    logits: Floats
    """The logit of each class, (classes,), not yet divided by the temperature."""
    similarities: Floats
    """The cosine similarity of the text to each stored centroid, (centroids,): first the centroids of the tasks'
    examples, then those of out-of-scope texts, which belong to no task.
    """
    pairs: Floats
    """For each class, the text's pair score (how typical its word pairs are of the class, see `PairRatios`) minus the
    mean pair score of the class's own examples, (classes,).
    """
    vector: Vector
    """The text's vector, of length 1: the sum of word vectors in the static stage, the embedding in the encoder stage.
    Zeros in the static stage for a text without a known token.
    """


class StageScorer:
    """Computes logits, similarities and in-distribution scores from the fitted parameters of one classifier stage."""

    def __init__(self, stage: StageParameters) -> None:
        self._rows = np.ascontiguousarray(np.concatenate([stage.weights.T, stage.centroids, stage.out_of_scope]))
        """The head's weights and the centroids, in one array: one product with a vector takes half of the time of
        two.
        """
        self._bias, self._scale = stage.bias, stage.scale
        self._classes, self._of_tasks, self._of_others = len(stage.bias), len(stage.centroids), len(stage.out_of_scope)

    def with_scale(self, scale: Scale) -> "StageScorer":
        """Returns a scorer that shares this one's arrays, but computes scores with `scale`."""
        other = copy(self)
        other._scale = scale
        return other

    def compare(self, vector: Vector) -> tuple[Floats, Floats]:
        """Returns (logits, similarities) for a text's `vector`.

        The logits have one value for each class, (classes,). The similarities are those of `StageOutput.similarities`.
        """
        products = self._rows @ vector
        return products[: self._classes] + self._bias, products[self._classes :]

    def score(self, output: StageOutput) -> float:
        """Returns a text's in-distribution score, from the stage's output: how similar it is to the tasks' examples."""
        best, similarities = output.logits.argmax(), output.similarities
        of_others = similarities[self._of_tasks :]
        return self._scale.score_one(
            float(output.logits[best]),
            float(output.pairs[best]),
            float(np.maximum.reduce(similarities[: self._of_tasks])),  # `max()` takes twice as long
            float(np.maximum.reduce(of_others)) if self._of_others else 0.0,
        )


class StaticStage:
    """Classifies by the sum of one vector per word and word pair of the text, in tens of microseconds."""

    def __init__(self, stage: StageParameters, vocabulary: Vocabulary, model: StaticModel) -> None:
        self.temperature = stage.temperature
        self._model, self.scorer = model, StageScorer(stage)
        self._dimensions = len(stage.weights)
        self._pieces = {piece: number for number, piece in enumerate(vocabulary.pieces)}
        self._followers: dict[str, dict[str, int]] = {}
        """For each first word, the known word pairs that begin with it: their number in the vocabulary by the second
        word.
        """
        for number, pair in enumerate(vocabulary.pairs):
            first, second = pair.split(" ")
            self._followers.setdefault(first, {})[second] = number
        self._piece_rows = _feature_rows(vocabulary.piece_weights, vocabulary.piece_rarity)
        self._pair_rows = _feature_rows(vocabulary.pair_weights, vocabulary.pair_rarity)
        self._pair_ratios = np.ascontiguousarray(vocabulary.pair_ratios.ratios)
        """The ratios of `PairRatios`, (pairs, classes), with contiguous rows: taking and adding some rows takes a tenth
        of the time that columns take.
        """
        self._without_pairs = -vocabulary.pair_ratios.means
        """The pair scores of a text without known pairs, (classes,)."""
        self._words = WordRowCache(self._row)
        words = (word for first, seconds in self._followers.items() for word in (first, *seconds) if word != EDGE)
        self._words.add(dict.fromkeys(words))

    def evaluate(self, text: str) -> StageOutput | None:
        """Returns how well a text fits each class, by its words and pairs of adjacent words (`StageOutput`).

        Returns None if the text has neither letters nor digits, or nothing of it is in the vocabulary.
        """
        words = words_of(text)
        if not any(map(str.isalnum, words)):
            return None
        total, get = self._words.sum_of(unique_words(words)), self._followers.get
        adjacent = pairs_of(words)
        pairs = [known[second] for first, second in adjacent if (known := get(first)) and second in known]
        lexical, typical = total[self._dimensions :], self._without_pairs
        if pairs:
            lexical += np.add.reduce(self._pair_rows.take(pairs, axis=0))  # indexing takes longer
            ratios = np.add.reduce(self._pair_ratios.take(pairs, axis=0), dtype=np.float32)
            typical = ratios * np.float32(PAIR_RATIO_STEP / len(adjacent) ** 0.5) + typical
        vector = total[: self._dimensions]
        length, squared = math.sqrt(vector @ vector), float(lexical[-1])
        if length == 0 and squared == 0:
            return None
        vector /= length or 1
        logits, similarities = self.scorer.compare(vector)
        lexical /= (squared or 1) ** 0.5
        logits += lexical[:-1]
        return StageOutput(logits, similarities, typical, vector)

    def _row(self, word: str) -> Floats:
        """Returns a word's feature row, (dimensions + classes + 1,): the word's vector, its contribution to the logits,
        and its contribution to the squared length of the text's feature vector.
        """
        pieces = [number for piece in pieces_of(word) if (number := self._pieces.get(piece)) is not None]
        return np.concatenate([self._model.sum_of(word), self._piece_rows[pieces].sum(axis=0)])


class EncoderStage:
    """Classifies a text by its embedding. With the built-in MiniLM model it takes about a millisecond."""

    thresholds: NDArray[np.float64] | None = None
    """In-distribution scores below which the stage abstains, (tasks,). None means the thresholds of the
    `ClassifierModel`.
    """

    def __init__(self, stage: StageParameters, static_share: float, encoder: SentenceEncoder) -> None:
        self.temperature = stage.temperature
        self._encoder, self.scorer, self._static_share = encoder, StageScorer(stage), np.float32(static_share)

    def calibrated(self, alone: EncoderAlone) -> "EncoderStage":
        """Returns a copy of this stage that classifies without the static stage, with the temperature, scale and
        thresholds of `alone`. The arrays are shared.
        """
        stage = copy(self)
        stage.temperature, stage.thresholds = alone.temperature, alone.thresholds
        stage.scorer = self.scorer.with_scale(alone.scale)
        return stage

    def evaluate(self, text: str, static: StageOutput | None) -> StageOutput:
        """Returns the encoder's output for a text.

        `static` is the static stage's output for the same text. If given, the logits are the weighted mean of both
        stages' logits, and the pair scores are those of `static`. If `static` is None, the pair scores are 0. Raises
        Unavailable if the encoder is an embedding endpoint that fails.
        """
        vector = self._encoder.embed([text])[0]
        logits, similarities = self.scorer.compare(vector)
        if static is None:
            return StageOutput(logits, similarities, np.zeros_like(logits), vector)
        blended = (1 - self._static_share) * logits + self._static_share * static.logits
        return StageOutput(blended, similarities, static.pairs, vector)


class TextEmbedder:
    """Embeds single texts with the classifier's encoder, in a thread. It is thread-safe."""

    def __init__(self, encoder: SentenceEncoder, tokenizer: StaticModel) -> None:
        self._encoder, self._tokenizer = encoder, tokenizer

    async def embed(self, text: str) -> Vector:
        """Returns the embedding of `text`, (dimensions,), of length 1. Of a long text only an excerpt is embedded.

        Raises Unavailable if the encoder is an embedding endpoint that fails.
        """
        excerpt = token_excerpt(text, self._tokenizer)
        vectors = await asyncio.to_thread(self._encoder.embed, [excerpt.text])
        return np.asarray(vectors[0])


class Ranking(NamedTuple):
    """All tasks and their probabilities for a text, most probable first."""

    tasks: list[int]
    """The tasks' numbers, which are their positions in `ClassifierModel.tasks`."""
    probabilities: list[float]

    @property
    def margin(self) -> float:
        """The difference between the two highest probabilities."""
        return self.probabilities[0] - self.probabilities[1]


class CascadeClassifier:
    """Assigns texts to tasks, or abstains if a text is unlike the examples of all tasks. It is thread-safe."""

    def __init__(self, model: ClassifierModel, static_model: StaticModel, encoder: SentenceEncoder) -> None:
        """`static_model` and `encoder` must be the embedding models with which `model` was fitted.

        The function `load` rejects a stored classifier that was fitted with other embedding models.
        """
        self._model, self._tokenizer, self._known_words = model, static_model, frozenset(model.words)
        self._static = (
            StaticStage(model.static, model.vocabulary, static_model) if model.static and model.vocabulary else None
        )
        self._encoder = EncoderStage(model.encoder, model.static_share, encoder) if model.encoder else None
        self._alone = self._encoder.calibrated(model.alone) if self._encoder and model.alone else None
        self._documents: DocumentSignals | None = None

    @property
    def model(self) -> ClassifierModel:
        return self._model

    def with_documents(self, documents: DocumentSignals | None) -> "CascadeClassifier":
        """Returns a classifier that shares this one's arrays, and also compares texts with the tasks' documents.

        `DocumentSignals.reconsider` then corrects labels of the encoder stage, except a task that it assigns to a text
        in another language than the examples. Labels of the static stage are not corrected. None means no documents.
        """
        other = copy(self)
        other._documents = documents
        return other

    async def classify(self, text: str, *, is_foreign: bool = False) -> Labels:
        """Assigns a text to a task, or abstains. The encoder runs in a thread, and only for texts that need it.

        `is_foreign` means that the text is in another language than the examples. Then the encoder stage decides alone,
        since the static stage would know only words that happen to look the same in both languages.

        If the encoder is an endpoint that fails, no error is raised. The static stage decides instead. The classifier
        abstains if there is no static stage, or if the text is foreign. A note in the labels names the failure.
        """
        excerpt = token_excerpt(text, self._tokenizer)
        if is_foreign and self._alone:
            return await asyncio.to_thread(self._by_encoder, self._alone, excerpt, None)
        labels, output = self._without_encoder(excerpt)
        return labels if labels else await asyncio.to_thread(self._by_encoder, self._encoder, excerpt, output)

    def classify_now(self, text: str, *, is_foreign: bool = False) -> Labels:
        """Assigns a text to a task, or abstains, as `classify` does, but blocks: the encoder runs in the calling
        thread.
        """
        excerpt = token_excerpt(text, self._tokenizer)
        if is_foreign and self._alone:
            return self._by_encoder(self._alone, excerpt, None)
        labels, output = self._without_encoder(excerpt)
        return labels or self._by_encoder(self._encoder, excerpt, output)

    def knows_word(self, word: str) -> bool:
        """Returns whether a lower-case word occurs in the tasks' examples or in the static model's English
        vocabulary.
        """
        return word in self._known_words or self._tokenizer.knows(word)

    def glance(self, text: str) -> tuple[str, float] | None:
        """Returns (most probable task, score) for a short text, computed in microseconds by the static stage alone.

        The score is the text's in-distribution score minus the task's threshold for abstaining; it is negative below
        the threshold. Returns None if the classifier has no static stage, or if the text has no known word.
        """
        output = self._static.evaluate(encodable(text)) if self._static else None
        if output is None or self._static is None:
            return None
        score = self._static.scorer.score(output)
        best = int(self._model.classes.best_tasks(output.logits, self._static.temperature))
        if self._model.threshold is not None:
            score = self._model.threshold.on_encoder_scale(score)
        return self._model.tasks[best], score - float(self._model.thresholds[best])

    def _without_encoder(self, excerpt: TokenExcerpt) -> tuple[Labels | None, StageOutput | None]:
        if self._static is None:
            readable = any(map(str.isalnum, excerpt.text))
            return None if readable else self._unreadable(excerpt, ENCODER), None
        output = self._static.evaluate(excerpt.text)
        if output is None:
            return self._unreadable(excerpt, STATIC), None
        return self._by_static(self._static, excerpt, output), output

    def _by_static(self, stage: StaticStage, excerpt: TokenExcerpt, output: StageOutput) -> Labels | None:
        """Returns the static stage's labels; None if the encoder must decide.

        The encoder must decide if the margin or the score is below the cascade threshold (`CascadeThreshold`).
        """
        threshold, ranking = self._model.threshold, self._ranking(output, stage.temperature)
        if threshold is None:
            return self._labels(excerpt, ranking, stage.scorer.score(output), STATIC)
        if ranking.margin < threshold.min_margin:
            return None
        score = stage.scorer.score(output)
        if score < threshold.min_score:
            return None
        return self._labels(excerpt, ranking, threshold.on_encoder_scale(score), STATIC)

    def _by_encoder(self, stage: EncoderStage | None, excerpt: TokenExcerpt, static: StageOutput | None) -> Labels:
        assert stage is not None  # without an encoder the static stage has decided
        try:
            output = stage.evaluate(excerpt.text, static)
        except Unavailable as error:
            return self._without_answer(excerpt, static, error)
        score = stage.scorer.score(output)
        labels = self._labels(
            excerpt, self._ranking(output, stage.temperature), score, ENCODER, output.vector, stage.thresholds
        )
        if self._documents is None or (stage is self._alone and not labels.abstained):
            return labels  # a text in another language is less like the documents
        return self._documents.reconsider(labels, output.vector)

    def _without_answer(self, excerpt: TokenExcerpt, static: StageOutput | None, error: Unavailable) -> Labels:
        """Returns the labels for a text whose embedding has failed with `error`: those of the static stage if there is
        a `static` output, otherwise an abstention.
        """
        log.warning("classified without the encoder: %s", error.message)
        excerpt = replace(excerpt, notes=(*excerpt.notes, FAILED_NOTE))
        if static is None or self._static is None or self._model.threshold is None:
            return replace(self._unreadable(excerpt, ENCODER), notes=excerpt.notes)
        score = self._model.threshold.on_encoder_scale(self._static.scorer.score(static))
        return self._labels(excerpt, self._ranking(static, self._static.temperature), score, STATIC)

    def _ranking(self, output: StageOutput, temperature: float) -> Ranking:
        likely = self._model.classes.probabilities_of_tasks(probabilities(output.logits, temperature))
        order = (-likely).argsort()
        return Ranking(order.tolist(), likely.take(order).tolist())

    def _labels(
        self,
        excerpt: TokenExcerpt,
        ranking: Ranking,
        score: float,
        stage: str,
        vector: Vector | None = None,
        thresholds: NDArray[np.float64] | None = None,
    ) -> Labels:
        """Makes labels from a `ranking` of the tasks and the in-distribution `score`; abstains below the threshold.

        `vector` is the text's embedding, None if the encoder has not run. `thresholds`, (tasks,), replaces the model's
        thresholds.
        """
        thresholds, tasks = self._model.thresholds if thresholds is None else thresholds, self._model.tasks
        best = ranking.tasks[0]
        above = score - float(thresholds[best])
        return Labels(
            task=UNKNOWN if above < 0 else tasks[best],
            confidence=ranking.probabilities[0],
            probabilities=tuple(zip(map(tasks.__getitem__, ranking.tasks), ranking.probabilities, strict=True)),
            abstained=above < 0,
            stage=stage,
            vector=vector,
            margin=ranking.margin,
            in_distribution_score=above,
            notes=excerpt.notes,
        )

    def _unreadable(self, excerpt: TokenExcerpt, stage: str) -> Labels:
        tasks = self._model.tasks
        return Labels(
            task=UNKNOWN,
            confidence=1 / len(tasks),
            probabilities=tuple((task, 1 / len(tasks)) for task in tasks),
            abstained=True,
            stage=stage,
            in_distribution_score=UNREADABLE_SCORE,
            notes=(*excerpt.notes, UNREADABLE_NOTE),
        )


def _feature_rows(weights: Floats, rarity: Floats) -> Floats:
    """Returns one row for each feature (a word piece or word pair), (features, classes + 1).

    The first columns are the feature's contributions to the classes' logits. The last column is its contribution to the
    squared length of a text's feature vector.
    """
    return np.concatenate([weights * rarity[:, None], (rarity * rarity)[:, None]], axis=1)
