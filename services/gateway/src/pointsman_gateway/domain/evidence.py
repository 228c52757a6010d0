"""What is said of answers, and what is known of paths by it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PathEvidence:
    """What is known of a path on one task, from feedback and from receipts."""

    rated: float = 0.0
    """How many answers were rated."""
    quality: float = 0.0
    """Their mean rating, 0 to 1."""
    answers: float = 0.0
    """How many answers there are receipts of."""
    p95_seconds: float = 0.0
    """Arrival to end."""
    mean_cost_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Feedback:
    """What someone says of one answer, by its decision's id; at least one thing is said."""

    decision_id: str
    id: str = ""
    """Names this feedback: the same one sent twice counts once. Empty: its content names it."""
    rating: float | None = None
    """0 (bad) to 1 (good)."""
    correction: str = ""
    """What was wrong with it, in words."""
    right_task: str = ""
    right_answer: str = ""
    tenant: str = ""
    """Whose caller says it; empty: nobody's in particular, who may speak of every answer."""
