"""The policy `predicted`: chooses by how well each path is predicted to answer this request.

`pointsman predict` learns the predictions from an evaluation and from ratings of traffic (logistic regression on the
request's embedding, shrunk towards each path's mean) and writes the policy's options.
"""

import base64
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from pointsman_gateway.config.field_types import Strict
from pointsman_gateway.domain import Vector
from pointsman_gateway.extensions import Candidate, Plan, Policy, PolicyContext
from pointsman_gateway.routing.policies import ANSWERS_PER_PRICE, explore

WEIGHT_TYPE = np.dtype("<f2")


class PathPrediction(Strict):
    """The fit of one path: its probability of a good answer is sigmoid(bias + weights . embedding)."""

    mean: float = Field(ge=0, le=1, description="mean score; predicted for requests without an embedding")
    bias: float
    weights: str = Field(description="base64 of the weights as little-endian 16-bit floats, one per dimension")

    @field_validator("weights")
    @classmethod
    def _can_be_decoded(cls, value: str) -> str:
        if not np.isfinite(decode_weights(value)).all():
            raise ValueError("the weights are not finite numbers; write them with `pointsman predict`")
        return value


class PredictedOptions(Strict):
    encoder: str = Field(description="fingerprint of the embedding model that the weights are for")
    tolerance: float = Field(
        default=0.05, ge=0, le=1, description="predicted quality that may be given up for a cheaper path"
    )
    exploration_rate: float = Field(
        default=0, ge=0, le=0.5, description="share of requests for paths with too few ratings to learn from"
    )
    min_samples: int = Field(default=100, ge=1, description="ratings; paths with fewer are explored")
    paths: Annotated[dict[str, PathPrediction], Field(min_length=2)]

    @field_validator("paths")
    @classmethod
    def _have_equal_dimensions(cls, value: dict[str, PathPrediction]) -> dict[str, PathPrediction]:
        if len({len(decode_weights(path.weights)) for path in value.values()}) > 1:
            raise ValueError("the paths have weights of different length; fit them together with `pointsman predict`")
        return value


def encode_weights(weights: NDArray[np.floating]) -> str:
    return base64.b64encode(weights.astype(WEIGHT_TYPE).tobytes()).decode()


def decode_weights(text: str) -> NDArray[np.float32]:
    """Decodes the weights of a path's prediction; raises ValueError."""
    return np.frombuffer(base64.b64decode(text, validate=True), WEIGHT_TYPE).astype(np.float32)


class Predicted(Policy):
    """A policy that takes the cheapest path predicted to be at most `tolerance` worse than the best one."""

    Options = PredictedOptions
    needs_costs = True
    needs_vector = True
    uses_ratings = True

    @classmethod
    def encoder(cls, options: PredictedOptions) -> str:
        return options.encoder

    def __init__(self, options: PredictedOptions) -> None:
        self._options = options
        of_paths = options.paths.values()
        self._weights = np.stack([decode_weights(path.weights) for path in of_paths])
        self._bias = np.array([path.bias for path in of_paths], np.float32)
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
        """Returns the plan without exploration."""
        unavailable = context.unavailable(self.paths)
        quality = dict(zip(self.paths, self._predict(context.vector), strict=True))
        all_candidates = context.candidates(self.paths)
        candidates = [each for each in all_candidates if each.name not in unavailable] or all_candidates
        best = max(quality[each.name] for each in candidates)
        good = [each for each in candidates if quality[each.name] >= best - self._options.tolerance]
        chosen = min(good, key=lambda each: (each.cost_usd, -quality[each.name]))
        others = sorted((each for each in candidates if each is not chosen), key=lambda each: -quality[each.name])
        explanations = {each.name: _explanation(each, quality[each.name]) for each in candidates}
        return Plan(
            (chosen.name, *(each.name for each in others)),
            "policy:predicted",
            explanations | dict(unavailable),
            as_good=frozenset([each.name for each in good]),
        )

    def _predict(self, vector: Vector | None) -> list[float]:
        """Returns the predicted quality of each path."""
        if vector is None:
            return self._means
        return list(map(float, 1 / (1 + np.exp(-(self._weights @ vector + self._bias)))))


def _explanation(candidate: Candidate, quality: float) -> str:
    return f"predicted quality {quality:.2f} at ${candidate.cost_usd * ANSWERS_PER_PRICE:.4f} per 1,000"
