"""Finds which dollars of a request's cost are computed from estimated instead of counted tokens, and why.

Tokens are estimated if no engine has reported them, for example because the client disconnected during the answer.
"""

from collections.abc import Iterable

from pointsman_gateway.domain.outcome import CANCELLED
from pointsman_gateway.metering.attempts import PathAttempt, Work
from pointsman_gateway.metering.pricing import TOKEN_COMPONENTS

CLIENT_LEFT, ENGINE_BROKE_OFF, HEDGED = "cancelled", "interrupted", "hedged"
ESTIMATE_CAUSES = (CLIENT_LEFT, ENGINE_BROKE_OFF, HEDGED)
"""The causes of estimated tokens, in place of counted ones.

"cancelled": the client disconnected during the answer. "interrupted": the answer broke off or took too long. "hedged":
the prompt was also sent to a second engine, and the slower engine reports no tokens. If a request was cancelled or
interrupted before its first token, the prompt's tokens are estimated.
"""


def estimated_picodollars(attempts: Iterable[tuple[PathAttempt, Work]], outcome: str) -> dict[str, int]:
    """Returns the cost of estimated tokens in picodollars by cause; empty if engines counted all tokens.

    The causes are "cancelled" (the client left), "interrupted" (the answer broke off) and "hedged" (a slower second
    engine). `attempts` are the request's attempts, each with its tokens, costs and seconds. `outcome` is how the
    request ended: "ok", "cancelled" or an error's code.
    """
    found: dict[str, int] = {}
    for attempt, (usage, parts, _) in attempts:
        if usage.is_estimate:
            # An attempt that another one followed has failed by itself.
            cause = CLIENT_LEFT if outcome == CANCELLED and attempt.ended is None else ENGINE_BROKE_OFF
            tokens = sum([amount for part, amount in parts.items() if part in TOKEN_COMPONENTS])
            found[cause] = found.get(cause, 0) + tokens
        if "hedge" in parts:
            found[HEDGED] = found.get(HEDGED, 0) + parts["hedge"]
    return found
