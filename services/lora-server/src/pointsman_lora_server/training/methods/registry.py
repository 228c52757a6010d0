"""Creates training methods by name: a built-in one, one that another package installs, or "module:attribute"."""

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
"""From the method's `name` to "module:class"."""


def installed_methods() -> dict[str, str]:
    """Returns the names of the built-in methods and of those that installed packages register as entry points, each
    mapped to itself, as `JobEnvironment.methods` needs it. The packages are not imported.
    """
    return {name: name for name in (*BUILT_IN, *sorted(each.name for each in entry_points(group=ENTRY_POINT_GROUP)))}


def load_method(name: str) -> TrainingMethod:
    """Returns the training method called `name`: a built-in one, "module:attribute", or an entry point of an installed
    package.

    Raises ValueError if there is none, "module:attribute" cannot be imported, or it is not a `TrainingMethod`. What the
    import of an entry point raises is raised as it is.
    """
    if name in BUILT_IN or ":" in name:
        return _create(_import_attribute(BUILT_IN.get(name, name)), name)
    for entry_point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        return _create(entry_point.load(), name)
    raise ValueError(f"there is no training method '{name}'; known: {', '.join(installed_methods())}")


def method_for_config(config: Mapping[str, Any]) -> TrainingMethod:
    """Returns the method with which an adapter with this adapter_config.json is evaluated: `Dora` or plain LoRA."""
    return Dora() if config.get("use_dora") else TrainingMethod()


def _import_attribute(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"the training method '{name}' cannot be imported: {error}") from error


def _create(target: Any, name: str) -> TrainingMethod:
    """Returns `target`, or an instance of it if it is a class; raises ValueError unless that is a `TrainingMethod`."""
    method = target() if isinstance(target, type) else target
    if not isinstance(method, TrainingMethod):
        raise ValueError(f"the training method '{name}' is a {type(method).__name__}, not a TrainingMethod")
    return method
