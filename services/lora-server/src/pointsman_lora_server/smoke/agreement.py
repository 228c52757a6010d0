"""Whether the engine answers as PEFT does; both are right, and still differ where two tokens are nearly as likely."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pointsman_servicekit.errors import InvalidArgument

from pointsman_lora_server.smoke.reference import Reference, ReferenceRow

TOLERANCE = 1.0
"""In logits. A token that was ahead by less may lose to the rounding of bf16. Over 59 rows of trained and weak random
adapters, vLLM 0.32 on the CPU parted from PEFT at gaps of up to 0.14; over 12 rows of a random one that drowns out the
base, mostly under 0.4, and at 0.7 and 1.3 once each."""

TOLERANCE_OF_BF16 = 2 * TOLERANCE
"""Where the reference was rounded itself."""

MOST_DIFFERENT = 0.25
"""The share of rows that may differ all the same."""


class Answer(Protocol):
    @property
    def token_ids(self) -> tuple[int, ...]: ...
    @property
    def text(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Agreement:
    rows: int
    same: int
    """Rows with the same tokens up to the end."""
    near_ties: int
    """Rows that part where two tokens are nearly as likely; after that nothing can be compared."""
    tokens: int
    """That were compared, and the same."""


def compare(reference: Reference, answers: Sequence[Answer]) -> Agreement:
    """`answers` in the order of the reference's rows. Raises InvalidArgument ("differs_from_peft")."""
    tolerance = TOLERANCE if reference.exact else TOLERANCE_OF_BF16
    same = near_ties = tokens = 0
    different: list[tuple[ReferenceRow, Answer, int]] = []
    for row, answer in zip(reference.rows, answers, strict=True):
        place = _parting(row, answer)
        tokens += len(row.token_ids) if place is None else place
        if place is None:
            same += 1
        elif row.gaps[place] < tolerance:
            near_ties += 1
        else:
            different.append((row, answer, place))
    if len(different) > MOST_DIFFERENT * len(reference.rows):
        row, answer, place = different[0]
        raise InvalidArgument(
            f"the engine answers {len(different)} of {len(reference.rows)} prompts otherwise than PEFT does with the "
            f"same adapter: {answer.text!r} where {row.text!r} is right, from token {place} on, which is ahead of the "
            f"next by {row.gaps[place]:.2g} (under {tolerance:g} is rounding). The engine computes this adapter "
            "wrongly, or not at all; serve it merged into full weights, or report the engine",
            code="differs_from_peft",
        )
    return Agreement(len(reference.rows), same, near_ties, tokens)


def _parting(row: ReferenceRow, answer: Answer) -> int | None:
    """The first token that differs. The engine may leave the end of the turn out of its tokens."""
    for place, (right, given) in enumerate(zip(row.token_ids, answer.token_ids, strict=False)):
        if right != given:
            return place
    given = len(answer.token_ids)
    return given if given < len(row.token_ids) - 1 else None
