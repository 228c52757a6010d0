"""The reference answers that a smoke test computes with PEFT: checks them, and compares the engine's answers with
them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pointsman_servicekit.errors import InvalidArgument

MIN_DIFFERENCE = 0.02
"""If an adapter changes no logit by at least this much on any prompt, it has no effect. For comparison, rounding to
bf16 changes logits by ten times as much."""

TOLERANCE = 1.0
"""If a token's logit is above the second best one's by less than this, the engine may choose the other token because of
rounding to bf16.

Over 59 rows of trained and weak random adapters, vLLM 0.32 on the CPU differed from PEFT at gaps of up to 0.14; over 12
rows of a random adapter that is much stronger than the base model, mostly under 0.4, and once each at 0.7 and 1.3."""

BF16_TOLERANCE = 2 * TOLERANCE
"""Replaces `TOLERANCE` if PEFT computed the reference answers in bf16."""

MAX_DIFFERENT = 0.25
"""The fraction of the rows in which the engine may choose another token than PEFT even if the gap is above the
tolerance."""


@dataclass(frozen=True, slots=True)
class ReferenceRow:
    """PEFT's answer to one prompt, as text and token ids."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    """The ids of the greedy answer's tokens, including the token that ends the turn if the answer ended with it."""
    gaps: tuple[float, ...]
    """For each token of the answer, the difference between its logit and the second best logit."""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Reference:
    """The answers of an adapter version to some prompts, as PEFT computes them in a smoke test."""

    rows: tuple[ReferenceRow, ...]
    exact: bool = True
    """Whether the reference answers were computed in fp32; bf16 is used if fp32 does not fit into memory."""
    notes: tuple[str, ...] = ()
    """Observations from the smoke test for the log that are no reason to reject the version."""


class ComparableAnswer(Protocol):
    """Interface of an engine's answer that can be compared with a reference answer; `GreedyAnswer` implements it."""

    @property
    def token_ids(self) -> tuple[int, ...]: ...
    @property
    def text(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Agreement:
    """The result of comparing the engine's answers with the reference answers."""

    rows: int
    """The number of rows that were compared."""
    same: int
    """The number of rows whose tokens are all equal."""
    near_ties: int
    """The number of rows whose first different token can be explained by rounding: its gap to the second best token is
    below `TOLERANCE` (or `BF16_TOLERANCE` if the reference is not exact). The tokens after it are not compared."""
    tokens: int
    """The number of equal tokens in all rows, up to the first difference of each row."""


def check_trial(version: str, trial: Mapping[str, Any], with_samples: bool) -> Reference:
    """Checks the answers in `trial`, the result of `TrialModel.run`, and returns them as reference answers.

    `version` is the version's name for messages; `with_samples` says whether the prompts were the adapter's own
    samples. Raises InvalidArgument with one of these codes: "not_finite" if logits are NaN or infinite, "no_effect" if
    the adapter changes the logits by less than MIN_DIFFERENCE, and "does_not_stop" if no answer ends, and the adapter
    would not end its turn after a sample's own answer either. Without samples, "does_not_stop" is only a note in the
    result.
    """
    rows: Sequence[Mapping[str, Any]] = trial["rows"]
    if not all(row["finite"] for row in rows):
        raise InvalidArgument(
            f"{version} produces logits that are NaN or infinity: its weights overflow in combination, although each "
            "of them is finite. Train it again with a lower learning rate or a lower lora_alpha",
            code="not_finite",
        )
    largest = float(trial["difference"])
    if largest < MIN_DIFFERENCE:
        raise InvalidArgument(
            f"{version} answers as the base model does (its logits differ by {largest:.2g} at most on {len(rows)} "
            "prompts): it was hardly trained, or its scaling is too small. Train longer, or raise lora_alpha",
            code="no_effect",
        )
    notes: tuple[str, ...] = ()
    if not trial["stops"]:
        if with_samples:
            raise InvalidArgument(
                f"{version} does not end its turn, neither by itself nor after the samples' own answers, as in "
                f"{rows[0]['text']!r}: each answer would run into the token limit. Train with the end of the turn as "
                "the last token of each answer",
                code="does_not_stop",
            )
        notes = ("no answer ended within the trial; without samples that says little",)
    return Reference(
        tuple(
            ReferenceRow(tuple(row["prompt_ids"]), tuple(row["token_ids"]), tuple(row["gaps"]), str(row["text"]))
            for row in rows
        ),
        bool(trial["exact"]),
        notes,
    )


def compare(reference: Reference, answers: Sequence[ComparableAnswer]) -> Agreement:
    """Compares the engine's answers with the reference answers; `answers` has one answer for each row of the reference,
    in order.

    Raises InvalidArgument ("differs_from_peft") if more than the fraction MAX_DIFFERENT of the rows differ at a token
    whose gap is not below the tolerance (see `TOLERANCE`).
    """
    tolerance = TOLERANCE if reference.exact else BF16_TOLERANCE
    same = near_ties = tokens = 0
    different: list[tuple[ReferenceRow, ComparableAnswer, int]] = []
    for row, answer in zip(reference.rows, answers, strict=True):
        position = _first_difference(row, answer)
        tokens += len(row.token_ids) if position is None else position
        if position is None:
            same += 1
        elif row.gaps[position] < tolerance:
            near_ties += 1
        else:
            different.append((row, answer, position))
    if len(different) > MAX_DIFFERENT * len(reference.rows):
        row, answer, position = different[0]
        raise InvalidArgument(
            f"the engine answers {len(different)} of {len(reference.rows)} prompts differently than PEFT does with the "
            f"same adapter: {answer.text!r} instead of {row.text!r}, from token {position} on, which leads the next "
            f"one by {row.gaps[position]:.2g} (under {tolerance:g} is rounding). The engine computes this adapter "
            "wrongly, or not at all; serve it merged into full weights, or report the engine",
            code="differs_from_peft",
        )
    return Agreement(len(reference.rows), same, near_ties, tokens)


def _first_difference(row: ReferenceRow, answer: ComparableAnswer) -> int | None:
    """Returns the position of the first token that differs between the row and the engine's answer; None if no token
    differs.

    The engine's answer may lack the last token of the row, which ends the turn.
    """
    for position, (expected, token) in enumerate(zip(row.token_ids, answer.token_ids, strict=False)):
        if expected != token:
            return position
    length = len(answer.token_ids)
    return length if length < len(row.token_ids) - 1 else None
