"""Which modules a LoRA says that it adapts, by PEFT's rules."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pointsman_servicekit.errors import InvalidArgument

from pointsman_lora_server.checks.base import NOT_ADAPTED, BaseModelSpec

_LAYER = re.compile(r".*\.[^.]*\.(\d+)\.")  # as PEFT finds a layer's number where no layers_pattern is given


@dataclass(frozen=True, slots=True)
class Targets:
    """Names, or ends of names; none where `by_pattern`: then the modules are those that the weights adapt."""

    named: tuple[str, ...]
    by_pattern: bool
    all_of: frozenset[str]
    """The base's modules that must all be adapted; fewer would be an adapter that lost some of its tensors."""

    def includes(self, module: str) -> bool:
        return self.by_pattern or any(_ends_with(module, name) for name in self.named)


def read_targets(values: Mapping[str, Any], base: BaseModelSpec) -> Targets:
    """Raises InvalidArgument: bad_config, unsupported_feature or unknown_module."""
    wanted = values.get("target_modules")
    if isinstance(wanted, str) and wanted:
        # A regular expression, or "all-linear". It is not tried: some never come to an end.
        return Targets((), True, frozenset())
    if not isinstance(wanted, list) or not wanted or not all(isinstance(name, str) and name for name in wanted):
        raise _refused(f"has target_modules {wanted!r}; it must name at least one module", "bad_config")
    complete = values.get("layers_pattern") in (None, "", []) and values.get("exclude_modules") in (None, "", [])
    layers = _layers(values.get("layers_to_transform"))
    all_of: set[str] = set()
    for name in wanted:
        if name.rpartition(".")[2] in NOT_ADAPTED:
            raise _refused(f"adapts {name}, which the engine does not serve; train without it", "unsupported_feature")
        found = {module for module in base.layers if _ends_with(module, name)}
        if not found:
            raise _refused(
                f"adapts {name!r}, and '{base.served_name}' has no such linear layer; it has {_last_names(base)}",
                "unknown_module",
            )
        if complete:
            all_of |= {module for module in found if layers is None or _layer_of(module) in layers}
    return Targets(tuple(sorted(wanted)), False, frozenset(all_of))


def _layers(value: Any) -> Collection[int] | None:
    if value is None or value == []:
        return None
    numbers = value if isinstance(value, list) else [value]
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        raise _refused(f"has layers_to_transform {value!r}; it must be a list of whole numbers", "bad_config")
    return numbers


def _layer_of(module: str) -> int | None:
    found = _LAYER.match(module)
    return int(found[1]) if found else None


def _ends_with(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}")


def _last_names(base: BaseModelSpec) -> str:
    return ", ".join(sorted({module.rpartition(".")[2] for module in base.layers}))


def _refused(message: str, code: str) -> InvalidArgument:
    return InvalidArgument(f"adapter_config.json {message}", code=code, param="folder")
