"""Confidence limits of a mean that hold at any time, for evidence that is looked at while it grows.

A fixed-sample interval such as Wilson's holds at one number of observations that was chosen beforehand. Whoever looks
after each observation, and acts on the first interval that suits, is wrong far more often than it says. The limits
here form a confidence sequence: with probability `1 - alpha` the limit is right at all numbers of observations at once.

The observations lie from 0 to 1, and only their number and mean are needed. For a mean p and a bet b > 0,

    exp(b * sum - count * log(1 - p + p * exp(b)))

is a supermartingale that starts at 1, also if the observations are not 0 or 1 and if earlier ones influence which
come next. So is the weighted mean over several bets; by Ville's inequality it ever reaches 1 / alpha with a probability
of at most alpha. The lower limit is the largest p that is refuted so. Sources: S. R. Howard, A. Ramdas, J. McAuliffe
and J. Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of Statistics 49 (2021),
1055-1080 (sub-Bernoulli processes, discrete mixtures); I. Waudby-Smith and A. Ramdas, "Estimating means of bounded
random variables by betting", JRSS B 86 (2024), 1-27.
"""

from functools import lru_cache
from math import exp, expm1, log, log1p

BETS = tuple(2.0**power for power in range(-8, 3))
"""Differences in log-odds between the mean that is tested and one that would explain the observations."""

WEIGHTS = tuple(bet / (1 + bet * bet) / sum(b / (1 + b * b) for b in BETS) for bet in BETS)
"""Weights of the bets. They are largest at 1, for the decisions that 20 to 500 observations allow; small bets find
small differences."""

_GROWTHS = tuple(map(expm1, BETS))
_PRECISION = 1e-6


@lru_cache(maxsize=8192)
def lower_limit(mean: float, count: float, alpha: float) -> float:
    """Returns the lower limit, 0 to `mean`, of the true mean.

    The probability that it is above the true mean at some number of observations is at most `alpha`. `mean` is the mean
    of `count` observations from 0 to 1, each of which may count as less than one, and `alpha` is above 0 and below 1.
    Without observations the limit is 0.
    """
    if count <= 0:
        return 0.0
    needed, refuted, open_to = log(1 / alpha), 0.0, mean
    while open_to - refuted > _PRECISION:
        middle = (refuted + open_to) / 2
        if log_evidence_above(middle, mean, count) >= needed:
            refuted = middle
        else:
            open_to = middle
    return refuted


def upper_limit(mean: float, count: float, alpha: float) -> float:
    """Returns the upper limit, `mean` to 1, of the true mean; arguments and guarantee are as for `lower_limit`."""
    return 1 - lower_limit(1 - mean, count, alpha)


def limits(mean: float, count: float, confidence: float) -> tuple[float, float]:
    """Returns both limits of the true mean, which hold together at all times with the probability `confidence`."""
    alpha = (1 - confidence) / 2
    return lower_limit(mean, count, alpha), upper_limit(mean, count, alpha)


def log_evidence_above(tested: float, mean: float, count: float) -> float:
    """Returns the logarithm of the evidence that the true mean is above `tested`, 0 to 1.

    While it is not, the evidence (an e-process) ever reaches 1 / alpha with a probability of at most alpha.
    """
    gains = [count * (bet * mean - log1p(tested * growth)) for bet, growth in zip(BETS, _GROWTHS, strict=True)]
    largest = max(gains)
    return largest + log(sum(weight * exp(gain - largest) for weight, gain in zip(WEIGHTS, gains, strict=True)))
