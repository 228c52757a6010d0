"""Resolves the name of a training method: built in, installed by another package, or "module:attribute"."""

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from pointsman_lora_server.training.methods.dpo import Dpo
from pointsman_lora_server.training.methods.method import Dora, QLora, RsLora, TrainingMethod

ENTRY_POINT_GROUP = "pointsman.training_methods"

BUILT_IN: dict[str, type[TrainingMethod]] = {
    method.name: method
    for method in (
        TrainingMethod,  # plain LoRA
        RsLora,
        Dora,
        QLora,
        Dpo,
    )
}


def installed_methods() -> dict[str, str]:
    """Returns the names that `load_method` accepts: the built-in methods and installed packages' entry points. Packages
    are not imported.
    """
    return {name: name for name in (*BUILT_IN, *sorted(each.name for each in entry_points(group=ENTRY_POINT_GROUP)))}


def load_method(name: str) -> TrainingMethod:
    """Creates the training method of this name; raises ValueError if there is none, or it is not a `TrainingMethod`."""
    if name in BUILT_IN:
        return BUILT_IN[name]()
    if ":" in name:
        return _create(_import_attribute(name), name)
    for entry_point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        return _create(entry_point.load(), name)
    raise ValueError(f"there is no training method '{name}'; known: {', '.join(installed_methods())}")


def method_for_config(config: Mapping[str, Any]) -> TrainingMethod:
    """Returns the built-in method that can evaluate an adapter with this adapter_config.json."""
    return Dora() if config.get("use_dora") else TrainingMethod()


def _import_attribute(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"the training method '{name}' cannot be imported: {error}") from error


def _create(target: Any, name: str) -> TrainingMethod:
    """Returns the training method in `target`, which is a method or its class; raises ValueError otherwise."""
    method = target() if isinstance(target, type) else target
    if not isinstance(method, TrainingMethod):
        raise ValueError(f"the training method '{name}' is a {type(method).__name__}, not a TrainingMethod")
    return method
