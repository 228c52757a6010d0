"""Checks an adapter's adapter_config.json: it must be a LoRA for this base model, with a rank and features that the
engine supports.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pointsman_servicekit.errors import InvalidArgument

from pointsman_lora_server.checks import untrusted_input
from pointsman_lora_server.checks.base_layers import NOT_ADAPTABLE, BaseModelSpec

UNSUPPORTED_FEATURES: Mapping[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "lora_bias": (False,),
    "modules_to_save": ([],),
    "layer_replication": ([],),
    "alora_invocation_tokens": ([],),
    "trainable_token_indices": ([], {}),
    "target_parameters": ([],),
    "use_bdlora": (False, {}),
    "use_qalora": (False,),
    "fan_in_fan_out": (False,),
    "arrow_config": ({},),
    "kasa_config": ({},),
    "monteclora_config": ({},),
}
"""Key in adapter_config.json of each feature that the engine does not support -> the values that mean "not used". DoRA
is handled by `weights.convert_dora`."""

HARMLESS_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Texts that `init_lora_weights` in adapter_config.json may have, because PEFT then keeps the base model's weights.
With other texts, PEFT changes these weights, so the adapter would fit another base model (see
vllm/lora/peft_helper.py)."""

MAX_ALPHA = 1e6

_PLAIN_PATTERN = re.compile(r"\^?[A-Za-z0-9_.]+")
_LAYER_NUMBER = re.compile(r".*\.[^.]*\.(\d+)\.")  # as PEFT finds it if no layers_pattern is given


@dataclass(frozen=True, slots=True)
class TargetModules:
    """The modules (layers of the base model) that an adapter changes, according to `target_modules` in
    adapter_config.json.
    """

    names: tuple[str, ...]
    """Names of modules, or the last parts of their names; empty if `by_pattern` is true."""
    by_pattern: bool
    """Whether `target_modules` is a regular expression or "all-linear". The pattern is not evaluated; the modules are
    then those with tensors in the weights file."""
    required: frozenset[str]
    """Modules of the base model for which the weights file must contain tensors."""

    def includes(self, module: str) -> bool:
        return self.by_pattern or any(_has_suffix(module, name) for name in self.names)


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    values: Mapping[str, Any]
    rank: int
    """The LoRA rank; the largest one if modules have different ranks."""
    targets: TargetModules
    is_dora: bool

    def rank_of(self, module: str) -> int:
        return int(self._pattern_value("rank_pattern", module, self.values["r"]))

    def scaling_of(self, module: str) -> float:
        """Returns the scaling of the adapter's change to a module: PEFT and vLLM multiply the product B @ A of its LoRA
        factors by it.

        Raises InvalidArgument ("bad_config") if `rank_pattern` or `alpha_pattern` gives the module several values.
        """
        alpha = float(self._pattern_value("alpha_pattern", module, self.values["lora_alpha"]))
        rank = self.rank_of(module)
        return alpha / math.sqrt(rank) if self.values.get("use_rslora") else alpha / rank

    def _pattern_value(self, key: str, module: str, default: Any) -> Any:
        """Returns a module's value in `rank_pattern` or `alpha_pattern` (`key`); `default` if it has none. As in PEFT
        (`get_pattern_key`), a pattern matches a module's whole name, or the end of the name after a dot.
        """
        matches = {
            value
            for pattern, value in (self.values.get(key) or {}).items()
            if re.match(rf"(.*\.)?({pattern})$", module)  # plain names only, see `_pattern_values`
        }
        if len(matches) > 1:
            raise _rejected(f"gives {module} more than one value in {key}; name each module once", "bad_config")
        return matches.pop() if matches else default


def read_config(raw: bytes, base: BaseModelSpec, max_rank: int) -> AdapterConfig:
    """Parses adapter_config.json, and checks it against the base model and the highest rank that the engine supports.

    Raises InvalidArgument with the code bad_config, unsupported_feature, wrong_base_model, unknown_module or
    rank_too_high.
    """
    try:
        values = untrusted_input.parse_object(raw)
    except ValueError as error:
        raise _rejected(f"cannot be read: {error}; save the adapter again", "bad_config") from error
    _check_features(values)
    _check_base(values, base)
    rank = _rank(values, max_rank)
    _check_scaling(values)
    return AdapterConfig(values, rank, read_targets(values, base), bool(values.get("use_dora")))


def canonical_config(config: AdapterConfig, modules: Sequence[str]) -> bytes:
    """Returns the content of the adapter_config.json that is stored and hashed, and that the engine reads.

    If the adapter names its modules by a pattern, the pattern is replaced by `modules`, the modules in the weights
    file. A DoRA is written as a plain LoRA, because `weights.convert_dora` converts its weights.
    """
    values = dict(config.values)
    if config.targets.by_pattern:
        values["target_modules"] = sorted(modules)
    if config.is_dora:
        values["use_dora"] = False
    return untrusted_input.canonical_json(values)


def read_targets(values: Mapping[str, Any], base: BaseModelSpec) -> TargetModules:
    """Returns the modules that `target_modules` in the parsed adapter_config.json names.

    Raises InvalidArgument with the code bad_config, unsupported_feature (embedding or output layer) or unknown_module.
    """
    targets = values.get("target_modules")
    if isinstance(targets, str) and targets:
        # A regular expression, or "all-linear". It is not evaluated: some expressions take for ever.
        return TargetModules((), True, frozenset())
    if not isinstance(targets, list) or not targets or not all(isinstance(name, str) and name for name in targets):
        raise _rejected(f"has target_modules {targets!r}; it must name at least one module", "bad_config")
    is_complete = values.get("layers_pattern") in (None, "", []) and values.get("exclude_modules") in (None, "", [])
    layers = _layers(values.get("layers_to_transform"))
    required: set[str] = set()
    for name in targets:
        if name.rpartition(".")[2] in NOT_ADAPTABLE:
            raise _rejected(f"adapts {name}, which the engine does not serve; train without it", "unsupported_feature")
        modules = {module for module in base.layers if _has_suffix(module, name)}
        if not modules:
            raise _rejected(
                f"adapts {name!r}, and '{base.served_name}' has no such linear layer; it has {_last_parts(base)}",
                "unknown_module",
            )
        if is_complete:
            required |= {module for module in modules if layers is None or _layer_number(module) in layers}
    return TargetModules(tuple(sorted(targets)), False, frozenset(required))


def _layers(value: Any) -> Collection[int] | None:
    if value is None or value == []:
        return None
    numbers = value if isinstance(value, list) else [value]
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        raise _rejected(f"has layers_to_transform {value!r}; it must be a list of integers", "bad_config")
    return numbers


def _layer_number(module: str) -> int | None:
    match = _LAYER_NUMBER.match(module)
    return int(match[1]) if match else None


def _has_suffix(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}")


def _last_parts(base: BaseModelSpec) -> str:
    return ", ".join(sorted({module.rpartition(".")[2] for module in base.layers}))


def _check_features(values: Mapping[str, Any]) -> None:
    kind = values.get("peft_type")
    if kind is None:
        raise _rejected("has no peft_type; that of a LoRA is 'LORA'", "bad_config")
    if kind != "LORA":
        raise _rejected(
            f"has peft_type {kind!r}; the engine serves 'LORA' alone: train one, or merge it into full weights",
            "unsupported_feature",
        )
    if values.get("task_type") not in (None, "CAUSAL_LM"):
        raise _rejected(f"has task_type {values['task_type']!r}; the engine serves 'CAUSAL_LM'", "unsupported_feature")
    for key, unused in UNSUPPORTED_FEATURES.items():
        if values.get(key) is not None and values[key] not in unused:
            raise _rejected(
                f"uses {key} ({values[key]!r}), which the engine does not compute; train without it, or merge the "
                "adapter into full weights (`python -m pointsman_lora_server.smoke.merge`) and serve them by an engine "
                "of their own",
                "unsupported_feature",
            )
    init = values.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in HARMLESS_INITS:
        raise _rejected(
            f"has init_lora_weights {init!r}, which changes the base's weights; convert it to a plain LoRA with "
            "PEFT's path_initial_model_for_weight_conversion",
            "unsupported_feature",
        )
    for flag in ("use_dora", "use_rslora"):
        if values.get(flag) not in (None, True, False):
            raise _rejected(f"has {flag} {values[flag]!r}; it must be true or false", "bad_config")


def _check_base(values: Mapping[str, Any], base: BaseModelSpec) -> None:
    name = values.get("base_model_name_or_path")
    if not isinstance(name, str) or name not in base.names:
        raise _rejected(
            f"says that the adapter was trained on {name!r}, but this engine serves '{base.served_name}'; an adapter "
            "works only on the base that it was trained on. If that is the same model under another name, add "
            "the name to POINTSMAN_LORA_BASE_MODEL_NAMES",
            "wrong_base_model",
        )


def _rank(values: Mapping[str, Any], max_rank: int) -> int:
    ranks = [values.get("r"), *_pattern_values(values, "rank_pattern")]
    for rank in ranks:
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise _rejected(f"has the rank {rank!r}; it must be an integer of at least 1", "bad_config")
    if max(ranks) > max_rank:
        raise _rejected(
            f"has rank {max(ranks)}, but this engine takes at most {max_rank} (POINTSMAN_LORA_MAX_LORA_RANK)",
            "rank_too_high",
        )
    return int(max(ranks))


def _check_scaling(values: Mapping[str, Any]) -> None:
    for alpha in (values.get("lora_alpha"), *_pattern_values(values, "alpha_pattern")):
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha <= MAX_ALPHA:
            raise _rejected(f"has lora_alpha {alpha!r}; it must be a number above 0, up to {MAX_ALPHA:g}", "bad_config")


def _pattern_values(values: Mapping[str, Any], key: str) -> list[Any]:
    """Returns the values of `rank_pattern` or `alpha_pattern` (`key`), which maps module names to numbers.

    PEFT and vLLM use the names as regular expressions, and some regular expressions never finish. So InvalidArgument is
    raised for a name that is not plain.
    """
    patterns = values.get(key) or {}
    if not isinstance(patterns, dict):
        raise _rejected(f"has a {key} that is not an object", "bad_config")
    for pattern in patterns:
        if not _PLAIN_PATTERN.fullmatch(pattern):
            raise _rejected(f"has {pattern!r} in {key}; write the modules' names there", "unsupported_feature")
    return list(patterns.values())


def _rejected(message: str, code: str) -> InvalidArgument:
    return InvalidArgument(f"adapter_config.json {message}", code=code, param="folder")
