"""The loss of direct preference optimization (DPO), computed by the library TRL within this package's own training
loop.

The loss compares the trained model with a frozen reference model. That is the base model with the adapter turned off
or, if training starts from a parent adapter, TRL's frozen copy of the parent. TRL only pads the batches and computes
the loss; steps, learning rate schedule, checkpoints and time limits are those of all other methods.
"""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from datasets.utils import logging as datasets_logging
from transformers import PrinterCallback, ProgressCallback
from trl import DPOConfig, DPOTrainer

from pointsman_lora_server.training.batches import batch_by_length
from pointsman_lora_server.training.dataset import BaseFolder
from pointsman_lora_server.training.encoding import PreferencePair
from pointsman_lora_server.training.learner import Learner

if TYPE_CHECKING:  # options names the methods, which use this module
    from pointsman_lora_server.training.options import Recipe


class DpoObjective:
    def __init__(
        self, learner: Learner, base: BaseFolder, heldout: Sequence[PreferencePair], recipe: "Recipe", is_fresh: bool
    ) -> None:
        """Prepares TRL's loss; `heldout` are the preference pairs on which `measure` measures it.

        If `is_fresh`, the adapter is new and has no effect yet, and the frozen reference model of the loss is the base
        model. Otherwise the reference model has a frozen copy of the adapter as it is now.
        """
        datasets_logging.disable_progress_bar()
        logging.getLogger("trl").setLevel(logging.ERROR)
        self._learner = learner
        self._heldout = heldout
        self._tokens_per_step = recipe.tokens_per_step
        self._trainer = _create_trainer(learner, base, recipe, is_fresh)

    def backward(self, batch: Sequence[PreferencePair]) -> float:
        """Adds the gradients of the batch's loss to the `.grad` of the adapter's parameters; returns the loss, a mean
        over the pairs.
        """
        self._learner.model.train()
        with self._learner.autocast():
            loss = self._loss(batch)
        loss.backward()
        return float(loss.item())

    def measure(self) -> dict[str, float]:
        """Returns the mean "loss" on the held-out pairs and their "preference_accuracy"; returns an empty dictionary
        without held-out pairs.

        The accuracy is the share of pairs for which training has raised the log-probability of the preferred answer by
        more than that of the rejected answer, compared with the reference model.
        """
        if not self._heldout:
            return {}
        total, correct = 0.0, 0.0
        self._learner.model.eval()
        with torch.no_grad(), self._learner.autocast():
            for batch in batch_by_length(self._heldout, self._tokens_per_step):
                logs: dict[str, float] = {}
                total += float(self._loss(batch)) * len(batch)
                self._trainer.log(logs)
                correct += logs["eval_rewards/accuracies"] * len(batch)
        self._learner.model.train()
        return {"loss": total / len(self._heldout), "preference_accuracy": correct / len(self._heldout)}

    def _loss(self, batch: Sequence[PreferencePair]) -> Any:
        inputs = self._trainer.data_collator([_to_trl_row(pair) for pair in batch])
        on_device = {name: tensor.to(self._learner.device) for name, tensor in inputs.items()}
        loss = self._trainer.compute_loss(self._trainer.model, on_device)
        if self._trainer.model.training:
            self._trainer.log({})  # discards the metrics that TRL collects until they are logged
        return loss


def _create_trainer(learner: Learner, base: BaseFolder, recipe: "Recipe", is_fresh: bool) -> Any:
    """Creates TRL's trainer for its loss alone; the one row of its data set is not used."""
    unused = Path(tempfile.gettempdir()) / "pointsman-dpo-writes-nothing-here"
    config = DPOConfig(
        output_dir=str(unused),
        beta=recipe.beta,
        seed=recipe.seed,
        max_length=None,
        use_cpu=learner.device == "cpu",
        bf16=False,  # the caller's autocast applies
        gradient_checkpointing=False,
        disable_tqdm=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
    )
    model = learner.model
    rows = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    trainer = DPOTrainer(model=model, args=config, train_dataset=rows, processing_class=base.tokenizer)
    if is_fresh:
        model.delete_adapter("ref")  # a copy of an adapter without effect; without it the reference is the base model
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    return trainer


def _to_trl_row(pair: PreferencePair) -> dict[str, list[int]]:
    start = pair.chosen.prompt_length
    return {
        "prompt_ids": list(pair.chosen.prompt_ids),
        "chosen_ids": list(pair.chosen.ids[start:]),
        "rejected_ids": list(pair.rejected.ids[start:]),
    }
