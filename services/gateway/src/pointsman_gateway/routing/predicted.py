"""The policy `predicted`: chooses the path with the highest expected utility for this request.

The utility is the probability of a right answer, minus the request's expected dollars divided by the dollars that a
wrong answer costs. `pointsman predict` learns the predictions from an evaluation and from ratings of traffic, and
writes the policy's options: a logistic regression on the request's embedding, shrunk towards the path's mean, or
towards its means on the tasks that the request may belong to.
"""

import base64
from collections.abc import Mapping
from math import exp, log
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from pointsman_gateway.config.field_types import Strict
from pointsman_gateway.extensions import Candidate, Plan, Policy, PolicyContext
from pointsman_gateway.routing.exploration import explore
from pointsman_gateway.routing.wording import quoted

WEIGHT_TYPE = np.dtype("<f2")
MAX_EXPONENT = 700.0
"""The largest exponent that is passed to `math.exp`, which raises OverflowError for slightly larger ones."""
MIN_MEAN = 1e-6
"""Mean scores are limited to MIN_MEAN and 1 - MIN_MEAN before their logits are computed."""


class TaskPrediction(Strict):
    """The predicted quality and cost of a path's answers to the requests of one task."""

    mean: float = Field(gt=0, lt=1, description="mean score")
    cost: float = Field(gt=0, allow_inf_nan=False, description="mean dollars, as a multiple of those of all tasks")


class PathPrediction(Strict):
    """The fitted parameters of one path, for the cost of a request and for the probability of a good answer, which is
    sigmoid(bias + task_weight x logit(mean of the tasks) + weights . embedding).
    """

    mean: float = Field(ge=0, le=1, description="mean score; predicted for requests without an embedding")
    bias: float
    weights: str = Field(
        default="", description="base64 of the weights as little-endian 16-bit floats, one per dimension; empty: none"
    )
    task_weight: float = Field(default=0, description="of the logit of the mean score of the tasks")
    tasks: dict[str, TaskPrediction] = Field(
        default={}, description="by task; each counts with its probability for the request, the mean with the rest"
    )
    cost_bias: float = Field(default=0, description="a request costs the mean times exp(cost_bias + ...)")
    cost_length_weight: float = Field(default=0, ge=0, le=1, description="of the logarithm of its characters")
    cost_weights: str = Field(default="", description="of its embedding, like `weights`; empty: they are 0")

    @field_validator("weights", "cost_weights")
    @classmethod
    def _can_be_decoded(cls, value: str) -> str:
        if not np.isfinite(decode_weights(value)).all():
            raise ValueError("the weights are not finite numbers; write them with `pointsman predict`")
        return value


class PredictedOptions(Strict):
    encoder: str = Field(
        default="", description="fingerprint of the embedding model that the weights are for; empty without weights"
    )
    usd_per_wrong_answer: float = Field(
        gt=0, allow_inf_nan=False, description="dollars that a wrong answer costs you; more of them buy dearer paths"
    )
    exploration_rate: float = Field(
        default=0, ge=0, le=0.5, description="share of requests for paths with too few ratings to learn from"
    )
    min_samples: int = Field(default=100, ge=1, description="ratings; paths with fewer are explored")
    escalate: bool = Field(
        default=False,
        description="whether a rejected answer is replaced, once, by one of a path with a higher predicted quality",
    )
    paths: Annotated[dict[str, PathPrediction], Field(min_length=2)]

    @model_validator(mode="before")
    @classmethod
    def _has_no_tolerance(cls, value: Any) -> Any:
        if isinstance(value, dict) and "tolerance" in value:
            raise ValueError(
                "tolerance is replaced by usd_per_wrong_answer, the dollars that a wrong answer costs you; "
                "`pointsman predict` writes it and shows what each value gains"
            )
        return value

    @field_validator("paths")
    @classmethod
    def _have_equal_dimensions(cls, value: dict[str, PathPrediction]) -> dict[str, PathPrediction]:
        lengths = {len(decode_weights(path.weights)) for path in value.values()}
        of_costs = {len(decode_weights(path.cost_weights)) for path in value.values() if path.cost_weights}
        if len(lengths | of_costs) > 1:
            raise ValueError("the paths have weights of different length; fit them together with `pointsman predict`")
        return value

    @field_validator("paths")
    @classmethod
    def _have_equal_tasks(cls, value: dict[str, PathPrediction]) -> dict[str, PathPrediction]:
        if len({frozenset(path.tasks) for path in value.values()}) > 1:
            raise ValueError("the paths have predictions for different tasks; fit them together, `pointsman predict`")
        return value

    @model_validator(mode="after")
    def _names_its_encoder(self) -> "PredictedOptions":
        if bool(self.encoder) != any(path.weights for path in self.paths.values()):
            raise ValueError("encoder and weights go together; write both or neither with `pointsman predict`")
        return self

    @property
    def tasks(self) -> tuple[str, ...]:
        """Returns the names of the tasks for which each path has a prediction of its own; empty if tasks are not
        distinguished.
        """
        return tuple(next(iter(self.paths.values())).tasks)


def encode_weights(weights: NDArray[np.floating]) -> str:
    return base64.b64encode(weights.astype(WEIGHT_TYPE).tobytes()).decode()


def decode_weights(text: str) -> NDArray[np.float32]:
    """Returns an array of shape (dimensions,) with the weights that `encode_weights` wrote as base64.

    Raises ValueError if `text` is not valid base64 of 16-bit floats.
    """
    return np.frombuffer(base64.b64decode(text, validate=True), WEIGHT_TYPE).astype(np.float32)


class Predicted(Policy):
    """Chooses the path with the highest expected utility: the probability of a good answer, minus its expected dollars
    divided by `usd_per_wrong_answer`.

    For a share of the users (`exploration_rate`), chooses a path with fewer than `min_samples` ratings instead.
    """

    Options = PredictedOptions
    needs_costs = True
    uses_ratings = True

    @classmethod
    def summary(cls, options: PredictedOptions) -> str:
        return "a choice for each request; on average"

    @classmethod
    def encoder(cls, options: PredictedOptions) -> str:
        return options.encoder

    def __init__(self, options: PredictedOptions) -> None:
        self._options = options
        self.needs_vector, self.needs_validators = bool(options.encoder), options.escalate
        of_paths = options.paths.values()
        quality = [decode_weights(path.weights) for path in of_paths]
        cost = [decode_weights(path.cost_weights) if path.cost_weights else 0 * quality[0] for path in of_paths]
        self._weights = np.stack([*quality, *cost])
        """The weights of all paths' quality, then those of the cost, in one matrix, so that a request needs one
        product."""
        self._bias = np.array([*(path.bias for path in of_paths), *(path.cost_bias for path in of_paths)], np.float32)
        self._length_weights = [path.cost_length_weight for path in of_paths]
        self._task_weights = [path.task_weight for path in of_paths]
        self._tasks = TaskMixture(options)

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(self._options.paths)

    def plan(self, context: PolicyContext) -> Plan:
        chosen, rate = self.preview(context), self._options.exploration_rate
        if not rate:
            return chosen
        enough, unavailable = self._options.min_samples, context.unavailable(self.paths)
        unexplored = {
            each.name: f"{each.evidence.ratings:.0f} of {enough} ratings"
            for each in context.candidates(self.paths)
            if each.evidence.ratings < enough and each.name not in unavailable
        }
        return explore(chosen, unexplored, rate, context.position("trial"))

    def preview(self, context: PolicyContext) -> Plan:
        """Returns the plan without exploration: the available paths in the order of their expected utility, the highest
        first. If no path is available, the plan has all paths.
        """
        unavailable, price = context.unavailable(self.paths), self._options.usd_per_wrong_answer
        qualities, factors = self._predict(context)
        quality = dict(zip(self.paths, qualities, strict=True))
        all_candidates = context.candidates(self.paths)
        costs = {each.name: _usd(each, factor) for each, factor in zip(all_candidates, factors, strict=True)}
        names = [name for name in costs if name not in unavailable] or list(costs)
        names.sort(key=lambda name: costs[name] - quality[name] * price)
        return Plan(
            tuple(names),
            "policy:predicted",
            {name: _explanation(quality[name], costs[name]) for name in names} | dict(unavailable),
            escalates=self._options.escalate,
            escalation_order=tuple(sorted(quality, key=quality.__getitem__)) if self._options.escalate else (),
            worth_usd={name: quality[name] * price for name in names},
        )

    def _predict(self, context: PolicyContext) -> tuple[list[float], list[float]]:
        """Returns two lists in the order of the paths: the predicted quality, 0 to 1, and the expected cost of the
        request as a multiple of the path's mean cost on the task. If the vector is missing, the means decide.
        """
        means, multiples = self._tasks.of(context.task, context.task_probabilities)
        if self.needs_vector and context.vector is None:
            return means, multiples
        count, bias = len(means), self._bias
        sums = (self._weights @ context.vector + bias if self.needs_vector else bias).tolist()
        length = log(max(1, context.request.characters))
        logits = [
            value + weight * _logit(mean) if weight else value
            for value, weight, mean in zip(sums[:count], self._task_weights, means, strict=True)
        ]
        factors = [
            multiple * exp(min(value + weight * length, MAX_EXPONENT))
            for value, weight, multiple in zip(sums[count:], self._length_weights, multiples, strict=True)
        ]
        return [1 / (1 + exp(min(-value, MAX_EXPONENT))) for value in logits], factors


class TaskMixture:
    """Each path's mean quality and cost for a request that may belong to several tasks, averaged by their
    probabilities.
    """

    def __init__(self, options: PredictedOptions) -> None:
        of_paths = options.paths.values()
        self._tasks, self._count = options.tasks, len(options.paths)
        self._all_tasks = np.array([*(path.mean for path in of_paths), *(1.0 for _ in of_paths)])
        rows = [[path.tasks[task].mean for task in self._tasks] for path in of_paths]
        rows += [[path.tasks[task].cost for task in self._tasks] for path in of_paths]
        self._by_task = np.array(rows).reshape(2 * self._count, len(self._tasks))

    def of(self, task: str, probabilities: Mapping[str, float]) -> tuple[list[float], list[float]]:
        """Returns two lists in the order of the paths: the mean quality of the path's answers, 0 to 1, and their mean
        cost as a multiple of the path's mean cost on `task`.

        Both are averages over tasks, weighted by `probabilities`. If the probabilities add up to less than 1, the
        missing weight goes to the mean over all tasks.
        """
        mixed, count = self._all_tasks, self._count
        if not self._tasks:
            return mixed[:count].tolist(), mixed[count:].tolist()
        shares = [probabilities.get(each, 0.0) for each in self._tasks]
        mixed = mixed + (self._by_task - mixed[:, None]) @ np.array(shares)
        costs = mixed[count:]
        if task in self._tasks:
            costs = costs / self._by_task[count:, self._tasks.index(task)]
        return mixed[:count].tolist(), costs.tolist()


def _logit(mean: float) -> float:
    mean = min(max(mean, MIN_MEAN), 1 - MIN_MEAN)
    return log(mean / (1 - mean))


def _usd(candidate: Candidate, factor: float) -> float:
    """Returns the expected dollars of the request on a path. The mean of the path's answers is multiplied with
    `factor`; before the first answer, `cost_usd` is an estimate for this request already.
    """
    return candidate.cost_usd * factor if candidate.evidence.answers else candidate.cost_usd


def _explanation(quality: float, usd: float) -> str:
    return f"predicted quality {quality:.2f} at {quoted(usd)}"
