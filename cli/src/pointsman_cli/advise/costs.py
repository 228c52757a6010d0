"""Costs of answers and training, and the volume from which an adapter pays off (formulas: docs/evaluation.md)."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pointsman_cli.errors import UsageError
from pointsman_cli.eval.report import EvaluatedPath

_SECONDS_PER_HOUR = 3600.0

TRAINING = "training"
"""The name of the cost component for training; the other components have the names in a receipt, such as "prompt"."""

FACTORS = (0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class CostTerms:
    """The user's costs in dollars and volumes of requests, by which `pointsman advise` compares paths.

    They are the inputs of `pointsman advise` that an evaluation does not measure.
    """

    training: Mapping[str, float] = field(default_factory=dict)
    """Dollars for one training, by adapter.

    `advise` takes adapters' names ("triage") as keys. `path_cost`, `recommend` and the other functions on single paths
    take aliases as in `EvaluatedPath.adapter` ("triage@prod"); `by_alias` converts the keys.
    """
    monthly: float | None = None
    """The number of requests a month; None if the user has not given it."""
    months: float = 12.0
    """The number of months over which the cost of one training is spread."""
    trainings_a_month: float = 0.0
    """How often a month the adapter is retrained to keep it up to date."""
    adapter_month: float = 0.0
    """Dollars a month for serving an adapter, in addition to the cost of the tokens."""
    wrong_answer: float = 0.0
    """Dollars of damage that one wrong answer does to the user."""
    unfinished: Mapping[str, str] = field(default_factory=dict)
    """How far a training got ("2 of 3 epochs"), by the adapter's name.

    Only for trainings that reached their time limit while the score still improved.
    """


@dataclass(frozen=True, slots=True)
class PathCost:
    """The cost of one path in dollars, and its mean score (0 to 1).

    `request` and `tokens` are for one request, with and without the expected cost of wrong answers. `training` is for
    one training, and `month` for serving and retraining in a month; both are 0 for a path without an adapter.
    """

    request: float
    """Dollars for one request, including the expected cost of wrong answers."""
    tokens: float
    """Dollars for one request as the gateway reported them, without training and wrong answers."""
    training: float
    """Dollars for one training of the path's adapter."""
    month: float
    """Dollars a month that do not depend on the volume: retraining and serving the adapter."""
    quality: float
    """The path's mean score, 0 to 1."""

    def monthly(self, requests: float, months: float) -> float:
        """Returns the dollars a month at a volume of `requests` a month, one training spread over `months` months."""
        return requests * self.request + self.training / months + self.month


@dataclass(frozen=True, slots=True)
class BreakEven:
    """The volumes from which a path with a trained adapter costs less than a path without an adapter.

    `trained` and `untrained` are the names of the two paths. A volume is None if the adapter never pays off.
    """

    trained: str
    untrained: str
    score_difference: float
    """Mean score of the path `trained` minus that of the path `untrained`.

    `right_answers` always depends on the scores; the other fields do only if `CostTerms.wrong_answer` is not 0.
    """
    saving_per_1000: float
    """Dollars that the trained path saves on 1,000 requests, including wrong answers; negative if it costs more."""
    requests: float | None
    """Number of requests after which the savings have paid for one training; monthly costs are not counted."""
    right_answers: float | None
    """Number of right answers after which the savings per right answer have paid for one training.

    The dollars per right answer are `tokens` of `PathCost` divided by `quality`.
    """
    requests_a_month: float | None
    """Number of requests a month whose savings pay the adapter's monthly costs and a month's share of the training."""


def path_cost(path: EvaluatedPath, terms: CostTerms, prices: Mapping[str, float] | None = None) -> PathCost:
    """Computes the dollars for a request, a training and a month of an evaluated path, which must have a score.

    If `path.adapter` is not empty, it must be a key of `terms.training`. `prices` has a factor for each cost component
    ("prompt", "completion", "training", ...), by which its price is multiplied; a missing factor is 1.
    """
    assert path.score is not None
    factors = prices or {}
    # The training share in the receipts is left out, because the training is counted as a whole below.
    of_requests = {part: usd for part, usd in path.usd_per_1000.items() if part != TRAINING}
    tokens = sum(usd * factors.get(part, 1.0) for part, usd in of_requests.items()) / 1000
    training, month = 0.0, 0.0
    if path.adapter:
        training = terms.training[path.adapter] * factors.get(TRAINING, 1.0)
        month = training * terms.trainings_a_month + terms.adapter_month
    quality = path.score.mean
    return PathCost(tokens + terms.wrong_answer * (1 - quality), tokens, training, month, quality)


def break_even(
    trained: EvaluatedPath, untrained: EvaluatedPath, terms: CostTerms, prices: Mapping[str, float] | None = None
) -> BreakEven:
    one, other = path_cost(trained, terms, prices), path_cost(untrained, terms, prices)
    saving = other.request - one.request
    by_the_month = one.month + one.training / terms.months
    return BreakEven(
        trained=trained.path,
        untrained=untrained.path,
        score_difference=trained.mean - untrained.mean,
        saving_per_1000=1000 * saving,
        requests=_volume(one.training, saving),
        right_answers=_volume(one.training, _per_right_answer(other) - _per_right_answer(one)),
        requests_a_month=_volume(by_the_month, saving),
    )


def _per_right_answer(path: PathCost) -> float:
    """Returns the dollars of `tokens` for each right answer; infinite if no answer is right."""
    return path.tokens / path.quality if path.quality else float("inf")


def _volume(spent: float, saving: float) -> float | None:
    """Returns how many requests save the dollars `spent`, if each saves `saving`; None if a request saves nothing."""
    if saving == float("inf"):
        return 0.0
    return spent / saving if saving > 0 else None


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """After how many requests one training is paid for, if one price is halved, unchanged or doubled."""

    price: str
    """The cost component whose price is changed: "prompt", "cached", "completion", "retrieval", "training", ..."""
    requests: tuple[float | None, ...]
    """The numbers of requests after which the training is paid for, if the price is multiplied by each of `FACTORS`
    (0.5, 1 and 2). None: it is never paid for.
    """


def sensitivities(trained: EvaluatedPath, untrained: EvaluatedPath, terms: CostTerms) -> tuple[Sensitivity, ...]:
    """Returns for each price the numbers of requests after which a training is paid for, if the price is halved,
    unchanged or doubled.

    The prices are those of the cost components of both paths, such as "prompt", and the price of the training. Only one
    price is changed at a time, for both paths alike.
    """
    prices = dict.fromkeys((*trained.usd_per_1000, *untrained.usd_per_1000, TRAINING))
    return tuple(
        Sensitivity(price, tuple(break_even(trained, untrained, terms, {price: factor}).requests for factor in FACTORS))
        for price in prices
    )


def read_training_costs(files: Iterable[Path], hourly: float | None, given: Iterable[str]) -> dict[str, float]:
    """Returns the cost of one training in dollars, by the adapter's name.

    `files` are training.json files with the seconds of a training; `hourly` is the dollars of an hour of the training
    machine. `given` are texts "NAME=USD", which replace costs from files. Raises UsageError if there are files and
    `hourly` is None, a file cannot be read, or a text is malformed.
    """
    found = {}
    for file in files:
        if hourly is None:
            raise UsageError(
                f"{file} holds seconds; give the price of an hour of that machine with --trainer-usd-per-hour"
            )
        record = _record(file)
        found[str(record["name"])] = float(record["seconds"]) / _SECONDS_PER_HOUR * hourly
    for text in given:
        name, _, dollars = text.partition("=")
        found[name] = _dollars(name, dollars, text)
    return found


def unfinished_trainings(files: Iterable[Path]) -> dict[str, str]:
    """Returns how far each training got ("2 of 3 epochs") that reached its time limit while its score still improved.

    The keys are adapters' names. A score still improved if the last evaluation was the best one. `files` are
    training.json files. Raises UsageError if a file cannot be read.
    """
    found = {}
    for file in files:
        record = _record(file)
        evaluations = record.get("evaluations") or [{}]
        if record.get("ended_by") == "time" and evaluations[-1].get("best"):
            epochs = f"{record.get('epochs_done')} of {record.get('recipe', {}).get('epochs')} epochs"
            found[str(record["name"])] = epochs
    return found


def check_selection(files: Iterable[Path], evaluated_sha256: str) -> None:
    """Checks that no training selected its best weights by the evaluated rows, since their score would be too high.

    `files` are training.json files, and `evaluated_sha256` is the SHA-256 of the evaluated data set. Raises UsageError
    if a training selected its weights by this data set, or a file cannot be read.
    """
    for file in files:
        record = _record(file)
        if "best_step" in record and record.get("data", {}).get("heldout_sha256") == evaluated_sha256:
            raise UsageError(
                f"{file}: the weights of '{record['name']}' were selected on the evaluated rows, so their score does "
                "not count; evaluate other rows, or train with other --eval-data"
            )


def training_cost_of(adapter: str, known: Mapping[str, float]) -> float:
    """Returns the training cost in dollars of an adapter, given as an alias or version ("triage@prod").

    `known` has the costs by the adapter's name ("triage"). Raises UsageError if the cost is unknown, since an unknown
    cost must not count as 0.
    """
    name = adapter.partition("@")[0]
    if name not in known:
        raise UsageError(
            f"the cost of training '{name}' is unknown; give --training FILE with --trainer-usd-per-hour USD, or "
            f"--training-cost {name}=USD"
        )
    return known[name]


def _record(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text("utf-8"))
        return {**data, "name": str(data["name"]), "seconds": float(data["seconds"])}
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{file} is not a training record (training.json), a JSON object with name and seconds: {error!r}"
        ) from error


def _dollars(name: str, dollars: str, text: str) -> float:
    try:
        cost = float(dollars)
    except ValueError:
        cost = -1.0
    if not name or not 0 <= cost < float("inf"):
        raise UsageError(f"--training-cost is {text!r}; it must be NAME=USD, such as triage=0.25")
    return cost
