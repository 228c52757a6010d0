"""A training method: LoRA whose first matrix starts with normally distributed values."""

from collections.abc import Mapping
from typing import Any

from pointsman_lora_server.training.methods.method import TrainingMethod


class GaussianLora(TrainingMethod):
    name = "gaussian_lora"
    learning_rate = 1e-3

    def peft_options(self) -> Mapping[str, Any]:
        return {"init_lora_weights": "gaussian"}
