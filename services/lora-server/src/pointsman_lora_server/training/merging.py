"""The base model with an adapter merged into its weights, as a Hugging Face folder that an engine of its own serves."""

from pathlib import Path

import torch

from pointsman_lora_server.training.base import BaseFolder
from pointsman_lora_server.training.learner import Learner


def write_merged(learner: Learner, base: BaseFolder, folder: Path) -> None:
    """Merges in fp32 and writes bf16, once: what is lost is the rounding that the base model has too.

    The learner's model is used up by it. The folder is new: whoever calls puts it in its place as a whole.
    """
    with torch.no_grad():
        merged = learner.model.merge_and_unload().to(torch.bfloat16)
    merged.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)  # the weights are written for their owner alone, and the engine may run as another user
