"""Creates training methods by name: a built-in method, an entry point of an installed package, or
"module:attribute".
"""

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from pointsman_lora_server.training.methods.method import Dora, TrainingMethod

ENTRY_POINT_GROUP = "pointsman.training_methods"

BUILT_IN: Mapping[str, str] = {
    "lora": "pointsman_lora_server.training.methods.method:TrainingMethod",
    "rslora": "pointsman_lora_server.training.methods.method:RsLora",
    "dora": "pointsman_lora_server.training.methods.method:Dora",
    "qlora": "pointsman_lora_server.training.methods.method:QLora",
    "dpo": "pointsman_lora_server.training.methods.dpo:Dpo",
}
"""Name of each built-in training method -> its class, as "module:class"."""


def installed_methods() -> dict[str, str]:
    """Returns the names of all training methods: the built-in ones, and the entry points of installed packages.

    Each name is mapped to itself, because `JobEnvironment.methods` is a mapping. The packages are not imported.
    """
    return {name: name for name in (*BUILT_IN, *sorted(each.name for each in entry_points(group=ENTRY_POINT_GROUP)))}


def load_method(name: str) -> TrainingMethod:
    """Returns the training method called `name`: a built-in method, "module:attribute", or an entry point of an
    installed package.

    Raises ValueError if no method has this name, "module:attribute" cannot be imported, or the object is not a
    `TrainingMethod`. Errors during the import of an entry point are raised as they are.
    """
    if name in BUILT_IN or ":" in name:
        return _create(_import_attribute(BUILT_IN.get(name, name)), name)
    for entry_point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        return _create(entry_point.load(), name)
    raise ValueError(f"there is no training method '{name}'; known: {', '.join(installed_methods())}")


def method_for_config(config: Mapping[str, Any]) -> TrainingMethod:
    """Returns the training method to evaluate an adapter with this adapter_config.json: `Dora` for a DoRA adapter, else
    plain LoRA.
    """
    return Dora() if config.get("use_dora") else TrainingMethod()


def _import_attribute(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"the training method '{name}' cannot be imported: {error}") from error


def _create(target: Any, name: str) -> TrainingMethod:
    """Returns `target`, or an instance of it if it is a class. Raises ValueError if the result is not a
    `TrainingMethod`.
    """
    method = target() if isinstance(target, type) else target
    if not isinstance(method, TrainingMethod):
        raise ValueError(f"the training method '{name}' is a {type(method).__name__}, not a TrainingMethod")
    return method
