"""The training methods, such as LoRA, DoRA and DPO. To add a method, write a subclass of `TrainingMethod` in a new
module here and add one line to `registry.BUILT_IN`.
"""

from pointsman_lora_server.training.methods.method import EncodedRows, TrainingMethod, TrainingRows
from pointsman_lora_server.training.methods.registry import installed_methods, load_method, method_for_config

__all__ = [
    "EncodedRows",
    "TrainingMethod",
    "TrainingRows",
    "installed_methods",
    "load_method",
    "method_for_config",
]
