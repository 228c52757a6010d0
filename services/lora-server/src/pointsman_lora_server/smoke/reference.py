"""What PEFT says that a version answers, and how sure each token is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReferenceRow:
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]  # greedy; ends with the end of the turn where that was reached
    gaps: tuple[float, ...]
    """At each token, by how much its logit is above the second best one's."""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Reference:
    rows: tuple[ReferenceRow, ...]
    exact: bool = True
    """Computed in fp32; otherwise, where that did not fit into the memory, in bf16 as the engine does."""
    notes: tuple[str, ...] = ()
    """What was not quite right, and is no reason to refuse."""
