"""Defines the interface of a training method: how rows are read and encoded, how the adapter is configured, and the
loss.

The variants of LoRA that train on conversations are defined here as well. A method with another form of data, such as
DPO, has its own module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pointsman_lora_server.training.batches import Row
from pointsman_lora_server.training.encoding import Example, Render, encode
from pointsman_lora_server.training.exits import TrainingError
from pointsman_lora_server.training.split import Split, read_split

if TYPE_CHECKING:
    from pointsman_lora_server.training.dataset import BaseFolder
    from pointsman_lora_server.training.learner import Learner
    from pointsman_lora_server.training.loop import Objective
    from pointsman_lora_server.training.options import TrainingOptions


class TrainingRows(Protocol):
    """Interface of the training and held-out rows that a training method has read; `Split` and `PreferenceSplit`
    implement it.
    """

    @property
    def notes(self) -> tuple[str, ...]:
        """Returns a line of text for each row that was left out, with the reason."""

    @property
    def conversations(self) -> Split:
        """Returns the rows as prompts with their right answers, for statistics, held-out samples and few-shot prompts.
        A preference pair becomes its prompt with the preferred answer.
        """


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """The rows of a training run as token ids, for training, evaluation and few-shot prompts."""

    training: tuple[Row, ...]
    heldout: tuple[Row, ...]
    """Held-out rows on which the loss is measured."""
    heldout_answers: tuple[Example, ...]
    """Held-out prompts with their right answers. The model's generated answers are compared with the right ones."""
    examples: tuple[Example, ...]
    """Each answer in the training rows with its prompt, for statistics and few-shot prompts. A preference pair gives
    two examples."""
    notes: tuple[str, ...] = ()
    """One line of text for each row that was left out, with the reason."""


class TrainingMethod:
    """Plain LoRA, trained on conversations. Every other training method is a subclass that overrides what differs.

    Instances are also created in environments without torch, so modules that need torch are only imported inside
    `create_objective`.
    """

    name = "lora"
    learning_rate = 2e-3
    """The default peak learning rate, which suits rank 4 and alpha 16."""
    base_in_4_bits = False
    """Whether the base model is quantized to 4 bits while training."""
    must_be_merged = False
    """Whether an engine can only serve the trained adapter after it was merged into the weights of the base model."""
    learns_from_pairs = False
    """Whether the method reads pairs of a preferred and a rejected answer instead of conversations. If so,
    `pointsman retrain` passes the preference pairs of the data set, and training starts from the adapter version
    that is serving."""

    def peft_options(self) -> Mapping[str, Any]:
        """Returns keyword arguments for PEFT's `LoraConfig`, in addition to those that are common to all methods."""
        return {}

    def check_options(self, options: TrainingOptions) -> None:
        """Raises ValueError, with a message for the user, if the options do not suit the method.

        This implementation rejects --evaluate-only for methods that learn from preference pairs, because evaluation
        alone needs rows with one answer.
        """
        if options.evaluate_only and self.learns_from_pairs:
            raise ValueError(f"--evaluate-only needs rows with one answer, which --method {self.name} does not read")

    def check_parent(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Raises TrainingError if this method cannot continue training the adapter in `folder`, whose
        adapter_config.json is `config`.

        This implementation rejects a DoRA adapter.
        """
        if config.get("use_dora"):
            raise TrainingError(f"--init-from {folder}: only --method dora continues from a DoRA adapter")

    def read_rows(self, options: TrainingOptions) -> TrainingRows:
        """Reads the training and held-out rows that the options name. Raises DataError if a file cannot be read or has
        invalid rows.
        """
        return read_split(options.data, options.heldout, options.heldout_share, options.system, options.recipe.seed)

    def encode_rows(self, rows: Any, render: Render, end_of_turn: int, max_tokens: int) -> EncodedRows:
        """Encodes the rows that `read_rows` has returned as token ids; rows of more than `max_tokens` are left out.

        `end_of_turn` is the id of the token that ends an answer. Raises DataError if the chat template renders a prompt
        differently when an answer follows.
        """
        training = encode(rows.training, render, end_of_turn, max_tokens)
        heldout = encode(rows.heldout, render, end_of_turn, max_tokens)
        notes = (*rows.notes, *training.notes, *heldout.notes)
        return EncodedRows(training.rows, heldout.rows, heldout.rows, training.rows, notes)

    def create_objective(
        self, learner: Learner, base: BaseFolder, heldout: Sequence[Any], options: TrainingOptions
    ) -> Objective:
        """Returns the loss that training minimizes. `heldout` has the encoded held-out rows that `Objective.measure`
        uses.
        """
        from pointsman_lora_server.training.sft_loss import SftObjective

        return SftObjective(learner, heldout, options.recipe.tokens_per_step)


class RsLora(TrainingMethod):
    """Rank-stabilized LoRA: scales the adapter's change by alpha / sqrt(rank) instead of alpha / rank."""

    name = "rslora"
    learning_rate = 1e-3

    def peft_options(self) -> Mapping[str, Any]:
        return {"use_rslora": True}

    def check_parent(self, folder: Path, config: Mapping[str, Any]) -> None:
        super().check_parent(folder, config)
        if not config.get("use_rslora"):
            raise TrainingError(
                f"--init-from {folder} is not an rsLoRA adapter; its scale cannot change: use --method lora"
            )


class Dora(TrainingMethod):
    """LoRA with an additional learnt magnitude for each output of a layer. No engine supports these magnitudes, so the
    result is merged into the weights of the base model.
    """

    name = "dora"
    must_be_merged = True

    def peft_options(self) -> Mapping[str, Any]:
        return {"use_dora": True}

    def check_parent(self, folder: Path, config: Mapping[str, Any]) -> None:
        if not config.get("use_dora"):
            raise TrainingError(f"--init-from {folder} is not a DoRA adapter; --method dora continues from those only")


class QLora(TrainingMethod):
    """LoRA that is trained on a base model whose weights are quantized to 4 bits, which needs less memory."""

    name = "qlora"
    base_in_4_bits = True

    def check_options(self, options: TrainingOptions) -> None:
        super().check_options(options)
        if options.merged_out is not None:
            raise ValueError("--merged-out needs the whole base model, but qlora loads it in 4 bits")
