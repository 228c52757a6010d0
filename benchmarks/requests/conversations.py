"""Measures the model of conversations (`belief_parameters.py`) on Schema-Guided Dialogue (SGD), and fits it.

The classifier is trained on SGD's turns that open an intent. The parameters are fitted on other dialogues than the
reported ones (`sgd_dialogues.py`), together with the help desk's development conversations.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pointsman_embedding import MiniLM, StaticModel
from pointsman_gateway.bootstrap.models import EmbeddingModels, train_classifier
from pointsman_gateway.classification.belief import (
    TurnObservations,
    assistant_features,
    believe,
    probabilities_of,
    user_features,
)
from pointsman_gateway.classification.belief_parameters import COUNTS, PARAMETERS, BeliefParameters
from pointsman_gateway.classification.cascade import CascadeClassifier
from pointsman_gateway.classification.conversation import UNREAD, Conversation, Turn
from pointsman_gateway.classification.fitting.fit import fit_classifier
from pointsman_gateway.classification.model import FitSettings
from pointsman_gateway.classification.reader import LONG_CHARACTERS, LanguageDetector, Reader
from pointsman_gateway.classification.rules import RuleMatcher
from pointsman_gateway.classification.stage import Classification, TextClassifier
from pointsman_gateway.classification.utterances import Utterance, shape_of
from pointsman_gateway.config.load import load_config
from pointsman_gateway.domain import UNKNOWN, Message, Request
from scipy.optimize import minimize  # type: ignore[import-untyped]  # it ships no types

from benchmarks.requests.sgd_dialogues import FITTING, VALIDATION, development_rows

ROOT = Path(__file__).parents[2]
HELPDESK = ROOT / "examples/helpdesk"

WEIGHTS: Mapping[str, float] = {"opens": 3, "unknown": 1.75, "unrelated": 3}
"""Weights of the rows of each kind in the fit; other kinds have 1. Few turns open an intent, and fewer belong to no
task."""
HELPDESK_WEIGHT = 12.0
"""A factor of the weights of the help desk's rows: it has 94 conversations, and SGD some 3,000 turns to fit on."""
REGULARIZATION = 0.003
MAX_STEPS = 60


@dataclass(frozen=True)
class Case:
    """The turns of a conversation up to one of the user's turns, and the task of that turn."""

    kind: str
    task: str
    messages: tuple[Message, ...]

    @property
    def request(self) -> Request:
        return Request("auto", self.messages)


@dataclass(frozen=True)
class Rows:
    """Cases with the same number of turns, with one classifier's results as arrays."""

    observations: TurnObservations
    tasks: np.ndarray
    """The number of each case's task; cases of no task have the number of tasks."""
    weights: np.ndarray


def dialogues(rows: Iterable[Mapping[str, Any]]) -> list[Case]:
    """Reads SGD's turns. A turn continues the task of the turn before it, opens another task, or is the first."""
    cases = []
    for row in rows:
        users = sum(turn["role"] == "user" for turn in row["turns"])
        kind = "first" if users == 1 else "opens" if row["opens"] else "goes on"
        cases.append(_case("unknown" if row["label"] is None else kind, row["label"], row["turns"]))
    return cases


def helpdesk(file: Path) -> list[Case]:
    return [_case(row["kind"], row["task"], row["messages"]) for row in _rows(file)]


def _rows(file: Path) -> Iterable[dict[str, Any]]:
    return map(json.loads, file.read_text("utf-8").splitlines())


def _case(kind: str, task: str | None, turns: Iterable[Mapping[str, str]]) -> Case:
    return Case(kind, task or UNKNOWN, tuple(Message(turn["role"], turn["content"]) for turn in turns))


class ConversationBenchmark:
    """One classifier's results on conversations, with the parameters to be measured."""

    def __init__(self, classifier: TextClassifier) -> None:
        self._reader = Reader(classifier.classify, LanguageDetector(("en",)))
        self._stage = Classification(RuleMatcher({}), classifier)

    def use(self, parameters: BeliefParameters) -> None:
        self._stage._conversation = Conversation(self._reader, parameters)

    async def rows(self, cases: Sequence[Case], scale: float = 1.0) -> list[Rows]:
        """Classifies the turns of the cases with several turns; returns them grouped by the number of turns."""
        conversation = self._stage._conversation
        groups = defaultdict(list)
        for case in cases:
            turns = self._stage.turns(case.request)
            if len(turns) > 1:
                observations = await _observations(conversation, turns)
                if observations:
                    groups[len(turns)].append((observations, case))
        names = conversation._tasks
        return [_stacked(group, names, scale) for group in groups.values()]

    async def right(self, cases: Sequence[Case]) -> list[bool]:
        return [(await self._stage.label(case.request)).task == case.task for case in cases]


async def _observations(conversation: Conversation, turns: Sequence[Turn]) -> TurnObservations | None:
    """Returns the classifier's observations of `turns`; None if it can say nothing about any of them."""
    last = turns[-1].text
    alone = None if shape_of(last).kind is Utterance.BARE else await conversation._reader.read(last)
    user = [await conversation._read(turn.text) for turn in turns[:-1]]
    user.append(conversation._keep(last, alone, cache=len(last) <= LONG_CHARACTERS) if alone else UNREAD)
    assistant = [UNREAD, *[await conversation._read(turn.said_before) for turn in turns[1:]]]
    if all(one.probabilities is None for one in user):
        return None
    features = [
        user_features(turn.text, shape_of(turn.text), one, turn.said_before)
        for turn, one in zip(turns, user, strict=True)
    ]
    tasks = len(conversation._tasks)
    return TurnObservations(
        np.array([probabilities_of(one, tasks) for one in user]),
        np.array(features),
        np.array([probabilities_of(one, tasks) for one in assistant]),
        np.array([assistant_features(one) for one in assistant]),
    )


def _stacked(group: Sequence[tuple[TurnObservations, Case]], names: Sequence[str], scale: float) -> Rows:
    fields = ("user", "user_features", "assistant", "assistant_features")
    arrays = (np.stack([getattr(observations, name) for observations, _ in group]) for name in fields)
    number = {name: index for index, name in enumerate(names)}
    return Rows(
        TurnObservations(*arrays),
        np.array([number.get(case.task, len(names)) for _, case in group]),
        np.array([scale * WEIGHTS.get(case.kind, 1.0) for _, case in group]),
    )


def fit(rows: Sequence[Rows]) -> BeliefParameters:
    """Returns the parameters with the least weighted cross-entropy, regularized."""
    total = sum(one.weights.sum() for one in rows)

    def loss(vector: np.ndarray) -> float:
        parameters = BeliefParameters.from_vector(vector)
        sums = (one.weights @ -np.log(_of_tasks(believe(one.observations, parameters), one.tasks)) for one in rows)
        return float(sum(sums) / total + REGULARIZATION * vector @ vector)

    start = np.zeros(sum(COUNTS))
    return BeliefParameters.from_vector(minimize(loss, start, method="L-BFGS-B", options={"maxiter": MAX_STEPS}).x)


def _of_tasks(belief: np.ndarray, tasks: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(belief[np.arange(len(tasks)), tasks], 1e-6))


async def measure(data: Path, models: Path, clone: Path | None = None) -> dict[str, Any]:
    """Prints the percentage of correctly classified turns by kind, and returns it.

    With the folder of a `clone` of SGD, also fits the parameters again, prints them, and measures both on the
    development dialogues that were not fitted on.
    """
    static, encoder = StaticModel.load(models), MiniLM.load(models)
    examples = defaultdict(list)
    for row in _rows(data / "sgd/train.jsonl"):
        examples[row["label"]].append(row["text"])
    sgd = ConversationBenchmark(
        CascadeClassifier(fit_classifier(examples, (), static, encoder, FitSettings()), static, encoder)
    )
    learned = train_classifier(load_config(HELPDESK / "config"), EmbeddingModels.load(models))
    assert learned.classifier  # the configuration has tasks
    desk = ConversationBenchmark(learned.classifier)
    figures: dict[str, Any] = {}
    if clone is not None:
        texts = {text for texts in examples.values() for text in texts}
        fitting, validation = (
            dialogues(development_rows(clone, half, examples, texts)) for half in (FITTING, VALIDATION)
        )
        development = helpdesk(ROOT / "tests/gateway/development_conversations.jsonl")
        of_desk = await desk.rows(development, HELPDESK_WEIGHT)
        fitted = fit([*await sgd.rows(fitting), *of_desk])
        print(f"fitted: {[round(value, 3) for value in fitted.to_vector().tolist()]}")
        for name, parameters in {"fitted": fitted, "stored": PARAMETERS}.items():
            sgd.use(parameters)
            desk.use(parameters)
            figures[f"{name}, validation"] = _shares(validation, await sgd.right(validation))
            figures[f"{name}, help desk's development"] = _shares(development, await desk.right(development))
    reported = dialogues(_rows(data / "sgd/test.jsonl"))
    figures["SGD"] = _shares(reported, await sgd.right(reported))
    heldout = helpdesk(HELPDESK / "heldout/conversations.jsonl")
    figures["help desk"] = _shares(heldout, await desk.right(heldout))
    for name, shares in figures.items():
        print(f"{name:32}", *(f"{kind} {share}" for kind, share in shares.items()))
    return figures


def _shares(cases: Sequence[Case], right: Sequence[bool]) -> dict[str, float]:
    count = Counter(case.kind for case in cases)
    good = Counter(case.kind for case, one in zip(cases, right, strict=True) if one)
    shares = {kind: round(100 * good[kind] / count[kind], 1) for kind in sorted(count)}
    return shares | {"all": round(100 * sum(right) / len(right), 1)}
