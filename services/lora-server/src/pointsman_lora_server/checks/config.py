"""adapter_config.json: a LoRA for our base model, of a rank and with features that the engine can serve."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pointsman_servicekit.errors import InvalidArgument

from pointsman_lora_server.checks import json_text
from pointsman_lora_server.checks.base import BaseModelSpec
from pointsman_lora_server.checks.targets import Targets, read_targets

# Keys of what the engine does not compute, each with the values that mean "not used". DoRA is looked at by `dora.py`.
UNUSED: Mapping[str, tuple[Any, ...]] = {
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
# Other starts change the base's weights, so that the adapter fits another base (see vllm/lora/peft_helper.py).
HARMLESS_STARTS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
LARGEST_ALPHA = 1e6

_PLAIN_PATTERN = re.compile(r"\^?[A-Za-z0-9_.]+")


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    values: Mapping[str, Any]
    rank: int  # the largest, where modules differ
    targets: Targets
    dora: bool

    def rank_of(self, module: str) -> int:
        return int(self._pattern("rank_pattern", module, self.values["r"]))

    def scaling_of(self, module: str) -> float:
        """What PEFT and vLLM multiply B @ A by."""
        alpha = float(self._pattern("alpha_pattern", module, self.values["lora_alpha"]))
        rank = self.rank_of(module)
        return alpha / math.sqrt(rank) if self.values.get("use_rslora") else alpha / rank

    def _pattern(self, key: str, module: str, otherwise: Any) -> Any:
        """By PEFT's rule (`get_pattern_key`): a name, or the end of one behind a dot."""
        found = {
            value
            for pattern, value in (self.values.get(key) or {}).items()
            if re.match(rf"(.*\.)?({pattern})$", module)  # plain names, see `_check_patterns`
        }
        if len(found) > 1:
            raise _refused(f"gives {module} more than one value in {key}; name each module once", "bad_config")
        return found.pop() if found else otherwise


def read_config(raw: bytes, base: BaseModelSpec, max_rank: int) -> AdapterConfig:
    """Raises InvalidArgument: bad_config, unsupported_feature, wrong_base_model, unknown_module or rank_too_high."""
    try:
        values = json_text.parse_object(raw)
    except ValueError as error:
        raise _refused(f"cannot be read: {error}; save the adapter again", "bad_config") from error
    _check_features(values)
    _check_base(values, base)
    rank = _rank(values, max_rank)
    _check_scaling(values)
    return AdapterConfig(values, rank, read_targets(values, base), bool(values.get("use_dora")))


def canonical(config: AdapterConfig, modules: Sequence[str]) -> bytes:
    """What is hashed, and what the engine reads; `modules` are those that the weights adapt.

    A DoRA is written as the plain LoRA that its weights have become by then.
    """
    values = dict(config.values)
    if config.targets.by_pattern:
        values["target_modules"] = sorted(modules)
    if config.dora:
        values["use_dora"] = False
    return json_text.canonical(values)


def _check_features(values: Mapping[str, Any]) -> None:
    kind = values.get("peft_type")
    if kind is None:
        raise _refused("names no peft_type; a LoRA's is 'LORA'", "bad_config")
    if kind != "LORA":
        raise _refused(
            f"has peft_type {kind!r}; the engine serves 'LORA' alone: train one, or merge it into full weights",
            "unsupported_feature",
        )
    if values.get("task_type") not in (None, "CAUSAL_LM"):
        raise _refused(f"has task_type {values['task_type']!r}; the engine serves 'CAUSAL_LM'", "unsupported_feature")
    for key, unused in UNUSED.items():
        if values.get(key) is not None and values[key] not in unused:
            raise _refused(
                f"uses {key} ({values[key]!r}), which the engine does not compute; train without it, or merge the "
                "adapter into full weights (`python -m pointsman_lora_server.smoke.merge`) for an engine of their own",
                "unsupported_feature",
            )
    start = values.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in HARMLESS_STARTS:
        raise _refused(
            f"has init_lora_weights {start!r}, which changes the base's weights; convert it to a plain LoRA with "
            "PEFT's path_initial_model_for_weight_conversion",
            "unsupported_feature",
        )
    for flag in ("use_dora", "use_rslora"):
        if values.get(flag) not in (None, True, False):
            raise _refused(f"has {flag} {values[flag]!r}; it must be true or false", "bad_config")


def _check_base(values: Mapping[str, Any], base: BaseModelSpec) -> None:
    named = values.get("base_model_name_or_path")
    if not isinstance(named, str) or named not in base.names:
        raise _refused(
            f"says that the adapter was trained on {named!r}, and this engine serves '{base.served_name}'; an adapter "
            "works on the base that it was trained on alone. Where that is the same model by another name, write "
            f"'{base.served_name}' as base_model_name_or_path",
            "wrong_base_model",
        )


def _rank(values: Mapping[str, Any], max_rank: int) -> int:
    ranks = [values.get("r"), *_check_patterns(values, "rank_pattern")]
    for rank in ranks:
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise _refused(f"has the rank {rank!r}; it must be a whole number from 1", "bad_config")
    if max(ranks) > max_rank:
        raise _refused(
            f"has rank {max(ranks)}, and this engine takes {max_rank} at most (POINTSMAN_LORA_MAX_LORA_RANK)",
            "rank_too_high",
        )
    return int(max(ranks))


def _check_scaling(values: Mapping[str, Any]) -> None:
    for alpha in (values.get("lora_alpha"), *_check_patterns(values, "alpha_pattern")):
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha <= LARGEST_ALPHA:
            raise _refused(
                f"has lora_alpha {alpha!r}; it must be a number above 0, up to {LARGEST_ALPHA:g}", "bad_config"
            )


def _check_patterns(values: Mapping[str, Any], key: str) -> list[Any]:
    """The pattern's values. Its keys are regular expressions to PEFT and vLLM, and some of those never end."""
    patterns = values.get(key) or {}
    if not isinstance(patterns, dict):
        raise _refused(f"has a {key} that is no object", "bad_config")
    for pattern in patterns:
        if not _PLAIN_PATTERN.fullmatch(pattern):
            raise _refused(f"has {pattern!r} in {key}; write the modules' names there", "unsupported_feature")
    return list(patterns.values())


def _refused(message: str, code: str) -> InvalidArgument:
    return InvalidArgument(f"adapter_config.json {message}", code=code, param="folder")
