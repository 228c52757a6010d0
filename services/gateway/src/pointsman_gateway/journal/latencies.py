"""Latencies counted in buckets whose widths grow with them, so that gateways' counts add up to one distribution.

The sketch is DDSketch's (Masson, Rim and Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error
guarantees", PVLDB 12, 2019): with bucket borders a factor GAMMA apart, a quantile is known to within ERROR of itself.
"""

import math
from collections.abc import Mapping

ERROR = 0.025
GAMMA = (1 + ERROR) / (1 - ERROR)
SHORTEST, LONGEST = 0.001, 3600.0
"""Seconds; what is outside is counted at the border, which bounds the number of buckets to 303."""

_LOG_GAMMA = math.log(GAMMA)


def bucket_of(seconds: float) -> int:
    """The bucket that holds GAMMA**(bucket-1) < seconds/SHORTEST <= GAMMA**bucket."""
    return math.ceil(math.log(min(max(seconds, SHORTEST), LONGEST) / SHORTEST) / _LOG_GAMMA)


def quantile(counts: Mapping[int, int], share: float) -> float:
    """Seconds within which `share` (0 to 1) of what was counted lies; 0 where nothing was."""
    rank = math.ceil(share * sum(counts.values()))
    reached = 0
    for bucket in sorted(counts):
        reached += counts[bucket]
        if counts[bucket] > 0 and reached >= rank:
            return float(SHORTEST * 2 * GAMMA**bucket / (GAMMA + 1))
    return 0.0
