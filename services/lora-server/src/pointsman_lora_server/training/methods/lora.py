"""Variants of LoRA on conversations: rsLoRA, DoRA and QLoRA."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pointsman_lora_server.training.exits import TrainingError
from pointsman_lora_server.training.methods.method import TrainingMethod

if TYPE_CHECKING:
    from pointsman_lora_server.training.options import TrainingOptions


class RsLora(TrainingMethod):
    """Rank-stabilized LoRA: scales by alpha / sqrt(rank) instead of alpha / rank, which is twice as much at rank 4."""

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
    """LoRA with a learnt magnitude for each output row. No engine computes it, so it is merged into the base model."""

    name = "dora"
    must_be_merged = True

    def peft_options(self) -> Mapping[str, Any]:
        return {"use_dora": True}

    def check_parent(self, folder: Path, config: Mapping[str, Any]) -> None:
        if not config.get("use_dora"):
            raise TrainingError(f"--init-from {folder} is not a DoRA adapter; --method dora continues from those only")


class QLora(TrainingMethod):
    """LoRA that is trained on the base model quantized to 4 bits."""

    name = "qlora"
    base_in_4_bits = True

    def check_options(self, options: TrainingOptions) -> None:
        super().check_options(options)
        if options.merged_out is not None:
            raise ValueError("--merged-out needs the whole base model, but qlora loads it in 4 bits")
