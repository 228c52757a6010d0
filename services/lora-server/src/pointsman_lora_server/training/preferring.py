"""Learning preferences: TRL's DPO loss, for our own loop.

The reference is what training starts from: the base model with the adapter off, or, with a parent, TRL's frozen copy
of it. TRL makes the batches and computes the loss; steps, schedule, checkpoints and time are the same as for answers.
"""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from datasets.utils import logging as datasets_logging
from transformers import PrinterCallback, ProgressCallback
from trl import DPOConfig, DPOTrainer

from pointsman_lora_server.training.base import BaseFolder
from pointsman_lora_server.training.batches import PreferencePair, by_length
from pointsman_lora_server.training.job import Recipe
from pointsman_lora_server.training.learner import Learner


class DpoObjective:
    def __init__(
        self, learner: Learner, base: BaseFolder, measured: Sequence[PreferencePair], recipe: Recipe, fresh: bool
    ) -> None:
        """`fresh`: the adapter changes nothing yet, so that the reference is the base model with it off."""
        datasets_logging.disable_progress_bar()
        logging.getLogger("trl").setLevel(logging.ERROR)
        self._learner = learner
        self._measured = measured
        self._tokens_at_once = recipe.tokens_per_step
        self._trainer = _trainer(learner, base, recipe, fresh)

    def backward(self, batch: Sequence[PreferencePair]) -> float:
        """Adds the batch's gradients; the loss, a mean over its pairs."""
        self._learner.model.train()
        with self._learner.autocast():
            loss = self._loss(batch)
        loss.backward()
        return float(loss.item())

    def measure(self) -> dict[str, float]:
        """The loss on the held-out pairs, and the share of them whose preferred answer gained more."""
        if not self._measured:
            return {}
        total, right = 0.0, 0.0
        self._learner.model.eval()
        with torch.no_grad(), self._learner.autocast():
            for batch in by_length(self._measured, self._tokens_at_once):
                logs: dict[str, float] = {}
                total += float(self._loss(batch)) * len(batch)
                self._trainer.log(logs)
                right += logs["eval_rewards/accuracies"] * len(batch)
        self._learner.model.train()
        return {"loss": total / len(self._measured), "preference_accuracy": right / len(self._measured)}

    def _loss(self, batch: Sequence[PreferencePair]) -> Any:
        inputs = self._trainer.data_collator([_row(pair) for pair in batch])
        there = {name: tensor.to(self._learner.device) for name, tensor in inputs.items()}
        loss = self._trainer.compute_loss(self._trainer.model, there)
        if self._trainer.model.training:
            self._trainer.log({})  # TRL gathers its own metrics until they are asked for
        return loss


def _trainer(learner: Learner, base: BaseFolder, recipe: Recipe, fresh: bool) -> Any:
    """For its loss alone: it gets one row because it must; the rows that are learnt come as we render them."""
    nowhere = Path(tempfile.gettempdir()) / "pointsman-dpo-writes-nothing-here"
    config = DPOConfig(
        output_dir=str(nowhere),
        beta=recipe.beta,
        seed=recipe.seed,
        max_length=None,
        use_cpu=learner.device == "cpu",
        bf16=False,  # our own autocast stands around it
        gradient_checkpointing=False,
        disable_tqdm=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
    )
    model = learner.model
    rows = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    trainer = DPOTrainer(model=model, args=config, train_dataset=rows, processing_class=base.tokenizer)
    if fresh:
        model.delete_adapter("ref")  # a copy of what changes nothing: without it the reference is the adapter off
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    return trainer


def _row(pair: PreferencePair) -> dict[str, list[int]]:
    cut = pair.chosen.prompt_length
    return {
        "prompt_ids": list(pair.chosen.prompt_ids),
        "chosen_ids": list(pair.chosen.ids[cut:]),
        "rejected_ids": list(pair.rejected.ids[cut:]),
    }
