"""The policy `predicted`: chooses the path with the highest expected utility for this request.

The utility is p(right) - expected dollars of the request / dollars that a wrong answer costs. `pointsman predict`
learns the predictions from an evaluation and from ratings of traffic (logistic regression on the request's embedding,
shrunk towards each path's mean) and writes the policy's options.
"""

import base64
from math import exp, log
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from pointsman_gateway.config.field_types import Strict
from pointsman_gateway.domain import Vector
from pointsman_gateway.extensions import Candidate, Plan, Policy, PolicyContext
from pointsman_gateway.routing.policies import ANSWERS_PER_PRICE, explore

WEIGHT_TYPE = np.dtype("<f2")
MAX_EXPONENT = 700.0
"""`math.exp` fails a little above it."""


class PathPrediction(Strict):
    """The fitted parameters of one path, for the cost of a request and for the probability of a good answer, which is
    sigmoid(bias + weights . embedding).
    """

    mean: float = Field(ge=0, le=1, description="mean score; predicted for requests without an embedding")
    bias: float
    weights: str = Field(description="base64 of the weights as little-endian 16-bit floats, one per dimension")
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
    encoder: str = Field(description="fingerprint of the embedding model that the weights are for")
    usd_per_wrong_answer: float = Field(
        gt=0, allow_inf_nan=False, description="dollars that a wrong answer costs you; more of them buy dearer paths"
    )
    exploration_rate: float = Field(
        default=0, ge=0, le=0.5, description="share of requests for paths with too few ratings to learn from"
    )
    min_samples: int = Field(default=100, ge=1, description="ratings; paths with fewer are explored")
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
        texts = [text for path in value.values() for text in (path.weights, path.cost_weights or path.weights)]
        if len({len(decode_weights(text)) for text in texts}) > 1:
            raise ValueError("the paths have weights of different length; fit them together with `pointsman predict`")
        return value


def encode_weights(weights: NDArray[np.floating]) -> str:
    return base64.b64encode(weights.astype(WEIGHT_TYPE).tobytes()).decode()


def decode_weights(text: str) -> NDArray[np.float32]:
    """Returns the weights that `encode_weights` has encoded, (dimensions,); raises ValueError if `text` is not such a
    text.
    """
    return np.frombuffer(base64.b64decode(text, validate=True), WEIGHT_TYPE).astype(np.float32)


class Predicted(Policy):
    """A policy that takes the path with the highest expected utility: p(right) - dollars / `usd_per_wrong_answer`. For
    a share of users (`exploration_rate`), it takes a path with too few ratings instead.
    """

    Options = PredictedOptions
    needs_costs = True
    needs_vector = True
    uses_ratings = True

    @classmethod
    def summary(cls, options: PredictedOptions) -> str:
        return "a choice for each request; on average"

    @classmethod
    def encoder(cls, options: PredictedOptions) -> str:
        return options.encoder

    def __init__(self, options: PredictedOptions) -> None:
        self._options = options
        of_paths = options.paths.values()
        quality = [-decode_weights(path.weights) for path in of_paths]
        cost = [decode_weights(path.cost_weights or encode_weights(0 * quality[0])) for path in of_paths]
        self._weights = np.stack([*quality, *cost])
        """Negative ones of the quality, then those of the cost, so that a request needs one product."""
        self._bias = np.array([*(-path.bias for path in of_paths), *(path.cost_bias for path in of_paths)], np.float32)
        self._length_weights = [path.cost_length_weight for path in of_paths]
        self._means = [path.mean for path in of_paths]

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
        """Returns the plan without exploration: the available paths (all, if none is available) by their expected
        utility, the highest first.
        """
        unavailable, price = context.unavailable(self.paths), self._options.usd_per_wrong_answer
        qualities, factors = self._predict(context.vector, context.request.characters)
        quality = dict(zip(self.paths, qualities, strict=True))
        all_candidates = context.candidates(self.paths)
        costs = {each.name: _usd(each, factor) for each, factor in zip(all_candidates, factors, strict=True)}
        names = [name for name in costs if name not in unavailable] or list(costs)
        names.sort(key=lambda name: costs[name] - quality[name] * price)
        return Plan(
            tuple(names),
            "policy:predicted",
            {name: _explanation(quality[name], costs[name]) for name in names} | dict(unavailable),
            worth_usd={name: quality[name] * price for name in names},
        )

    def _predict(self, vector: Vector | None, characters: int) -> tuple[list[float], list[float]]:
        """Returns two lists in the order of the paths: the predicted quality, 0 to 1, and the expected cost of the
        request as a multiple of the path's mean cost. Without a vector these are the path's mean quality and 1.
        """
        count = len(self._means)
        if vector is None:
            return self._means, [1.0] * count
        sums = (self._weights @ vector + self._bias).tolist()
        length = log(max(1, characters))
        qualities = [1 / (1 + exp(min(value, MAX_EXPONENT))) for value in sums[:count]]
        weighted = zip(sums[count:], self._length_weights, strict=True)
        return qualities, [exp(min(value + weight * length, MAX_EXPONENT)) for value, weight in weighted]


def _usd(candidate: Candidate, factor: float) -> float:
    """Returns the expected dollars of the request on a path. The mean of the path's answers is multiplied with
    `factor`; before the first answer, `cost_usd` is an estimate for this request already.
    """
    return candidate.cost_usd * factor if candidate.evidence.answers else candidate.cost_usd


def _explanation(quality: float, usd: float) -> str:
    return f"predicted quality {quality:.2f} at ${usd * ANSWERS_PER_PRICE:.4f} per 1,000"
