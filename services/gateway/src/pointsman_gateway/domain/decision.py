"""The task that classification finds for a request, and the routing decision: which path answers it, and why."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pointsman_gateway.domain.path import Path
from pointsman_gateway.domain.value import Vector, value

UNKNOWN = "unknown"
"""The task of requests that fit no configured task."""

DECISION_ID_PREFIX = "dec_"
"""The first characters of each decision's id. An answer's id is its decision's id after a prefix of the API."""


@value
class Labels:
    """The result of classifying one request: its task, with probabilities of all tasks, and how the task was found.

    The task is `UNKNOWN` ("unknown") if the request fits no configured task.
    """

    task: str
    confidence: float
    probabilities: tuple[tuple[str, float], ...]
    """(task, probability), most likely first; they add up to 1. Empty if no classifier has read the request."""
    abstained: bool
    """Whether classification assigns no task to the request. The default path then answers."""
    stage: str
    """What decided: "forced" (the request names a path or model), "rule:NAME", "static" or "encoder" (stages of the
    classifier), "conversation", "parts" (parts of the text belong to different tasks), "language" or "no_tasks".
    """
    vector: Vector | None = None
    """The embedding of the classified text, of unit length; None if it was not computed."""
    margin: float = 0.0
    """The difference between the highest and the second highest probability."""
    in_distribution_score: float = 0.0
    """How much the classified text is like the examples of its task; the classifier assigns no task if it is below 0.

    It is a score minus the task's threshold or, for a conversation, the log-odds of the task against no task.
    """
    notes: tuple[str, ...] = ()
    """Remarks of the classification for the decision, such as that only a part of the text was read."""
    user_words: str = ""
    """The part of the user's last message that was classified; empty if the whole message or nothing was classified."""


@dataclass(frozen=True, slots=True)
class Considered:
    """One path that routing considered for a request, its part in the decision (such as "chosen" or "fallback"), and
    the reason.
    """

    path: str
    outcome: str
    """What became of the path: "chosen", "skipped", "fallback" (if earlier paths fail) or "escalation" (if a validator
    rejects the answer)."""
    reason: str


@value
class Decision:
    """The routing decision for one request: the path that answers it, the reason, and the paths that may answer
    instead.

    A path is a configured way to answer: a model, prompt strategies, and perhaps an adapter.
    """

    id: str
    task: str
    confidence: float
    path: Path
    reason: str
    stage: str
    considered: tuple[Considered, ...]
    alternatives: tuple[Path, ...]
    """The paths to try, in this order, if `path` fails before its first token."""
    probabilities: tuple[tuple[str, float], ...] = ()
    expected_cost_usd: float | None = 0.0
    """Expected cost of the request on `path`, in dollars; None if the price of its model is unknown."""
    vector: Vector | None = None
    margin: float = 0.0
    in_distribution_score: float = 0.0
    notes: tuple[str, ...] = ()
    revision: str = ""
    """The revision of the configuration in use (`Config.revision`)."""
    escalation: tuple[Path, ...] = ()
    """If a validator rejects the answer of `path`, the first of these paths answers instead, once per request."""
    stream_unvalidated: frozenset[str] = frozenset()
    """Paths whose answers are streamed before they are validated, and so cannot be escalated."""
    random_key: str = ""
    """The conversation's key for random choices, such as of a canary, used if the request names no user. If it is
    empty, `id` is used.
    """

    @property
    def is_buffered(self) -> bool:
        """Returns whether the whole answer of `path` is validated before any part of it is sent to the client.

        True if another path may answer after a rejection (`escalation`), and `path` is not in `stream_unvalidated`.
        """
        return _is_buffered(self.path, self.escalation, self.stream_unvalidated)

    def with_fallback(self, reason: str) -> "Decision":
        """Returns the decision after the engine of `path` has failed: the first of `alternatives` becomes the path.

        `reason` says why it failed, such as an error code. `alternatives` must not be empty. If the new path is also in
        `escalation`, only the paths after it stay there; otherwise `escalation` becomes empty.
        """
        following, *rest = self.alternatives
        names = [path.name for path in self.escalation]
        further = self.escalation[names.index(following.name) + 1 :] if following.name in names else ()
        decision = replace(
            self,
            path=following,
            reason="fallback",
            alternatives=tuple(rest),
            escalation=further,
            notes=self._notes_with(following),
        )
        return decision._with_considered(
            Considered(self.path.name, "skipped", reason),
            *planned_escalation(following, further, self.stream_unvalidated),
            last=Considered(following.name, "fallback", f"after {self.path.name}: {reason}"),
        )

    def with_escalation(self, validator: str, reason: str) -> "Decision":
        """Returns the decision after the validator named `validator` has rejected the answer of `path`, for `reason`.

        The first path of `escalation`, which must not be empty, becomes the path. The result cannot be escalated again.
        """
        following = self.escalation[0]
        others = tuple(path for path in self.alternatives if path.name != following.name)
        decision = replace(
            self,
            path=following,
            reason=f"escalated:{validator}",
            alternatives=others,
            escalation=(),
            notes=self._notes_with(following),
        )
        return decision._with_considered(
            Considered(self.path.name, "skipped", f"refused: {reason}"),
            last=Considered(following.name, "escalation", f"after {self.path.name}: {validator}"),
        )

    def with_note(self, note: str) -> "Decision":
        return replace(self, notes=(*self.notes, note))

    def with_failed_escalation(self, reason: str, following: "Decision", failure: str) -> "Decision":
        """Returns the decision to send the answer of `path` although a validator has rejected it, since no other path
        answered.

        `reason` says why the answer was rejected, `following` is the decision that `with_escalation` returned, and
        `failure` is the code of the error with which its paths failed. The result has neither alternatives nor an
        escalation.
        """
        failed = (following.path, *following.alternatives)
        return replace(self, alternatives=(), escalation=())._with_considered(
            *(Considered(path.name, "skipped", failure) for path in failed),
            last=Considered(self.path.name, "chosen", f"refused: {reason}; but {following.path.name}: {failure}"),
        )

    def _notes_with(self, following: Path) -> tuple[str, ...]:
        """Returns the notes of this decision, then those of the path `following`, each once."""
        return tuple(dict.fromkeys((*self.notes, *following.notes)))

    def _with_considered(self, *updates: Considered, last: Considered) -> "Decision":
        """Returns the decision with new entries in `considered`: `updates` replace the entries of their paths.

        `last` becomes the last entry. Updates of paths without an entry are dropped.
        """
        by_path = {considered.path: considered for considered in updates}
        others = (by_path.get(c.path, c) for c in self.considered if c.path != last.path)
        return replace(self, considered=(*others, last))


def planned_escalation(
    path: Path, escalation: Sequence[Path], stream_unvalidated: frozenset[str]
) -> tuple[Considered, ...]:
    """Returns the entry for `Decision.considered` of the path that answers if a validator rejects the answer of `path`.

    The tuple has one entry, for the first path of `escalation`. It is empty if `escalation` is empty, or if `path` is
    one of `stream_unvalidated`, whose answers are sent before they are validated.
    """
    if not _is_buffered(path, escalation, stream_unvalidated):
        return ()
    return (Considered(escalation[0].name, "escalation", f"if the answer of {path.name} is not accepted"),)


def _is_buffered(path: Path, escalation: Sequence[Path], stream_unvalidated: frozenset[str]) -> bool:
    return bool(escalation) and path.name not in stream_unvalidated
