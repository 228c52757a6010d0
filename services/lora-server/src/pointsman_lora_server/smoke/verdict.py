"""What a trial says of a version: an answer to compare the engine's with, or why the engine should not see it."""

from collections.abc import Mapping, Sequence
from typing import Any

from pointsman_servicekit.errors import InvalidArgument

from pointsman_lora_server.smoke.reference import Reference, ReferenceRow

SMALLEST_DIFFERENCE = 0.02
"""In logits, from the base model's, on one prompt at least. The rounding of bf16 changes ten times as much."""


def check_trial(version: str, tried: Mapping[str, Any], with_samples: bool) -> Reference:
    """`tried` is what `trial.Bench.run` found. Raises InvalidArgument: not_finite, no_effect or does_not_stop."""
    rows: Sequence[Mapping[str, Any]] = tried["rows"]
    if not all(row["finite"] for row in rows):
        raise InvalidArgument(
            f"{version} answers with logits that are no numbers (NaN or infinity): its weights overflow together, "
            "though each is finite. Train it again with a lower learning rate or a lower lora_alpha",
            code="not_finite",
        )
    largest = float(tried["difference"])
    if largest < SMALLEST_DIFFERENCE:
        raise InvalidArgument(
            f"{version} answers as the base model does (its logits differ by {largest:.2g} at most on {len(rows)} "
            "prompts): it was hardly trained, or its scaling is too small. Train longer, or raise lora_alpha",
            code="no_effect",
        )
    notes: tuple[str, ...] = ()
    if not tried["stops"]:
        if with_samples:
            raise InvalidArgument(
                f"{version} does not end its turn, neither by itself nor after the samples' own answers, as in "
                f"{rows[0]['text']!r}: each answer would run into the limit of tokens. Train with the end of the turn "
                "as the last token of each answer",
                code="does_not_stop",
            )
        notes = ("no answer came to its end within the trial; without samples that says little",)
    return Reference(
        tuple(
            ReferenceRow(tuple(row["prompt_ids"]), tuple(row["token_ids"]), tuple(row["gaps"]), str(row["text"]))
            for row in rows
        ),
        bool(tried["exact"]),
        notes,
    )
