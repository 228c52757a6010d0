"""Says which task a text belongs to, or that it belongs to none: the static stage, the encoder where that is unsure."""

import asyncio

import numpy as np

from pointsman_gateway.classification.calibration import probabilities
from pointsman_gateway.classification.extract import Extract, extract
from pointsman_gateway.classification.fitted import ENCODER, STATIC, Fitted
from pointsman_gateway.classification.softmax_regression import Floats
from pointsman_gateway.classification.stages import Encoder, EncoderStage, Sight, StaticModel, StaticStage
from pointsman_gateway.domain import UNKNOWN, Labels, Vector

NOT_FAMILIAR = -100.0
"""Of a text in which nothing is known: lower than any that was read."""

NOTHING_TO_READ = "nothing in it that can be read"


class Classifier:
    """Safe to share between threads."""

    def __init__(self, fitted: Fitted, static_model: StaticModel, encoder: Encoder) -> None:
        """The models must be those that `fitted` was learned with: see `artefact.load`."""
        self._fitted, self._tokens, self._model = fitted, static_model, encoder
        self._static = (
            StaticStage(fitted.static, fitted.lexicon, static_model) if fitted.static and fitted.lexicon else None
        )
        self._encoder = EncoderStage(fitted.encoder, fitted.static_share, encoder) if fitted.encoder else None

    async def classify(self, text: str) -> Labels:
        """On the event loop where the static stage decides, in a thread where the encoder must read."""
        read = extract(text, self._tokens)
        labels, seen = self._at_once(read)
        return labels if labels else await asyncio.to_thread(self._by_encoder, read, seen)

    def classify_now(self, text: str) -> Labels:
        """As `classify`, for callers without an event loop."""
        read = extract(text, self._tokens)
        labels, seen = self._at_once(read)
        return labels or self._by_encoder(read, seen)

    async def embed(self, text: str) -> Vector:
        """The encoder's vector alone, (dimensions,), for a request whose task is known already."""
        read = extract(text, self._tokens)
        vectors = await asyncio.to_thread(self._model.embed, [read.text])
        return np.asarray(vectors[0])

    def _at_once(self, read: Extract) -> tuple[Labels | None, Sight | None]:
        """The labels where they take no encoder, and what the static stage saw."""
        if self._static is None:
            readable = any(map(str.isalnum, read.text))
            return None if readable else self._unreadable(read, ENCODER), None
        seen = self._static.see(read.text)
        if seen is None:
            return self._unreadable(read, STATIC), None
        return self._by_static(read, seen, self._static.temperature), seen

    def _by_static(self, read: Extract, seen: Sight, temperature: float) -> Labels | None:
        likely, gate = probabilities(seen.logits, temperature), self._fitted.gate
        if gate is None:
            return self._labels(read, seen, likely, seen.familiarity, STATIC)
        if seen.familiarity < gate.least_familiarity:
            return None
        second, first = np.partition(likely, -2)[-2:]
        if first - second < gate.least_margin:
            return None
        return self._labels(read, seen, likely, gate.slope * seen.familiarity + gate.offset, STATIC)

    def _by_encoder(self, read: Extract, static: Sight | None) -> Labels:
        assert self._encoder is not None  # else the static stage has decided
        seen = self._encoder.see(read.text, static)
        return self._labels(
            read, seen, probabilities(seen.logits, self._encoder.temperature), seen.familiarity, ENCODER
        )

    def _labels(self, read: Extract, seen: Sight, likely: Floats, familiarity: float, stage: str) -> Labels:
        tasks, order = self._fitted.tasks, np.argsort(-likely).tolist()
        values = likely.tolist()
        best = order[0]
        above = familiarity - float(self._fitted.thresholds[best])
        return Labels(
            task=UNKNOWN if above < 0 else tasks[best],
            confidence=values[best],
            probabilities=tuple([(tasks[number], values[number]) for number in order]),
            abstained=above < 0,
            stage=stage,
            vector=seen.vector,
            margin=values[best] - values[order[1]],
            familiarity=above,
            notes=read.notes,
        )

    def _unreadable(self, read: Extract, stage: str) -> Labels:
        tasks = self._fitted.tasks
        return Labels(
            task=UNKNOWN,
            confidence=1 / len(tasks),
            probabilities=tuple((task, 1 / len(tasks)) for task in tasks),
            abstained=True,
            stage=stage,
            familiarity=NOT_FAMILIAR,
            notes=(*read.notes, NOTHING_TO_READ),
        )
