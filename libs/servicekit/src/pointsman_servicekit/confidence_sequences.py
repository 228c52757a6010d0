"""Confidence limits of a mean that hold at any time, for observations that are evaluated while they accumulate.

A fixed-sample interval such as Wilson's holds at one number of observations that was chosen beforehand. Whoever
computes an interval after each observation, and acts on the first interval that suits, is wrong far more often than the
interval's confidence says. The limits here form a confidence sequence: with probability `1 - alpha` the limit is right
at all numbers of observations at once.

The observations lie from 0 to 1, and only their number and mean are needed. For a mean p and a bet b > 0,

    exp(b * sum - count * log(1 - p + p * exp(b)))

is a supermartingale that starts at 1, also if the observations are not 0 or 1 and if earlier observations influence
later ones. The weighted mean over several bets is a supermartingale too; by Ville's inequality it ever reaches 1 /
alpha with a probability of at most alpha. The lower limit is the largest p that is refuted in this way. Sources: S. R.
Howard, A. Ramdas, J. McAuliffe and J. Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals
of Statistics 49 (2021), 1055-1080 (sub-Bernoulli processes, discrete mixtures); I. Waudby-Smith and A. Ramdas,
"Estimating means of bounded random variables by betting", JRSS B 86 (2024), 1-27.
"""

from functools import lru_cache
from math import exp, expm1, log, log1p

BETS = tuple(2.0**power for power in range(-8, 3))
"""The bets b in the module's formula: differences in log-odds between the tested mean and one that would explain the
observations."""

WEIGHTS = tuple(bet / (1 + bet * bet) / sum(b / (1 + b * b) for b in BETS) for bet in BETS)
"""The weights of the bets, which add up to 1. The bet 1 has the largest, for decisions with 20 to 500 observations;
small bets detect small differences."""

_GROWTHS = tuple(map(expm1, BETS))
_PRECISION = 1e-6


@lru_cache(maxsize=8192)
def lower_limit(mean: float, count: float, alpha: float) -> float:
    """Returns a lower confidence limit of the true mean, from 0 to `mean`, that holds at all times.

    If the limit is computed after each observation, the probability that any of these limits is above the true mean is
    at most `alpha` (above 0, below 1). `mean` is the mean of `count` observations from 0 to 1; an observation may have
    a weight below one, so `count` need not be whole. Without observations the limit is 0.
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
    """Returns an upper confidence limit of the true mean, from `mean` to 1, that holds at all times.

    If the limit is computed after each observation, the probability that any of these limits is below the true mean is
    at most `alpha`. `mean` is the mean of `count` observations from 0 to 1.
    """
    return 1 - lower_limit(1 - mean, count, alpha)


def limits(mean: float, count: float, confidence: float) -> tuple[float, float]:
    """Returns a lower and an upper confidence limit of the true mean, from 0 to 1.

    If they are computed after each observation, the probability that all of these limits hold is at least `confidence`.
    `mean` is the mean of `count` observations from 0 to 1.
    """
    alpha = (1 - confidence) / 2
    return lower_limit(mean, count, alpha), upper_limit(mean, count, alpha)


def log_evidence_above(tested: float, mean: float, count: float) -> float:
    """Returns the natural logarithm of the evidence that the true mean is above `tested`, which is from 0 to 1.

    The evidence is a number that grows with the observations if the true mean is above `tested` (an e-process). If the
    true mean is not, the probability that the evidence ever reaches 1 / alpha is at most alpha. `mean` is the mean of
    `count` observations from 0 to 1.
    """
    gains = [count * (bet * mean - log1p(tested * growth)) for bet, growth in zip(BETS, _GROWTHS, strict=True)]
    largest = max(gains)
    return largest + log(sum(weight * exp(gain - largest) for weight, gain in zip(WEIGHTS, gains, strict=True)))
