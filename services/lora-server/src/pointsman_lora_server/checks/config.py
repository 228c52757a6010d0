"""adapter_config.json: a LoRA for our base model, of a rank and with features that the engine can serve."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pointsman_servicekit.errors import InvalidArgument

from pointsman_lora_server.checks.base import Base

# Keys of what the engine does not compute, each with the values that mean "not used".
UNUSED: Mapping[str, tuple[Any, ...]] = {
    "use_dora": (False,),
    "bias": ("none",),
    "lora_bias": (False,),
    "modules_to_save": ([],),
    "layer_replication": ([],),
    "alora_invocation_tokens": ([],),
    "trainable_token_indices": ([], {}),
    "target_parameters": ([],),
    "use_bdlora": ({},),
    "use_qalora": (False,),
    "fan_in_fan_out": (False,),
}
# Other starts change the base's weights, so that the adapter fits another base (see vllm/lora/peft_helper.py).
HARMLESS_STARTS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    rank: int  # the largest, where modules differ
    ranks_differ: bool
    target_modules: tuple[str, ...]
    canonical: bytes
    """The same content as always the same bytes: what is hashed, and what the engine reads."""


def read_config(raw: bytes, base: Base, max_rank: int) -> AdapterConfig:
    """Raises InvalidArgument: bad_config, unsupported_feature, wrong_base_model or rank_too_high."""
    values = _parse(raw)
    _check_features(values)
    _check_base(values, base)
    rank = _rank(values, max_rank)
    canonical = json.dumps(values, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return AdapterConfig(rank, bool(values.get("rank_pattern")), _target_modules(values), canonical.encode())


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        values = json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _refused(f"is no JSON: {error}", "bad_config") from error
    if not isinstance(values, dict):
        raise _refused("is no JSON object", "bad_config")
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _check_features(values: Mapping[str, Any]) -> None:
    kind = values.get("peft_type")
    if kind is None:
        raise _refused("names no peft_type; a LoRA's is 'LORA'", "bad_config")
    if kind != "LORA":
        raise _refused(f"has peft_type {kind!r}; the engine serves 'LORA' alone", "unsupported_feature")
    if values.get("task_type") not in (None, "CAUSAL_LM"):
        raise _refused(f"has task_type {values['task_type']!r}; the engine serves 'CAUSAL_LM'", "unsupported_feature")
    for key, unused in UNUSED.items():
        if values.get(key) is not None and values[key] not in unused:
            raise _refused(f"uses {key} ({values[key]!r}), which the engine does not compute", "unsupported_feature")
    start = values.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in HARMLESS_STARTS:
        raise _refused(
            f"has init_lora_weights {start!r}, which changes the base's weights; convert it to a plain LoRA with "
            "PEFT's path_initial_model_for_weight_conversion",
            "unsupported_feature",
        )


def _check_base(values: Mapping[str, Any], base: Base) -> None:
    named = values.get("base_model_name_or_path")
    if named not in base.names:
        raise _refused(
            f"says that the adapter was trained on {named!r}, and this engine serves '{base.served_name}'; "
            "an adapter works on the base that it was trained on alone",
            "wrong_base_model",
        )


def _rank(values: Mapping[str, Any], max_rank: int) -> int:
    alpha = values.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha) or alpha <= 0:
        raise _refused(f"has lora_alpha {alpha!r}; it must be a number above 0", "bad_config")
    patterns = values.get("rank_pattern") or {}
    if not isinstance(patterns, dict):
        raise _refused("has a rank_pattern that is no object", "bad_config")
    ranks = [values.get("r"), *patterns.values()]
    for rank in ranks:
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise _refused(f"has the rank {rank!r}; it must be a whole number from 1", "bad_config")
    if max(ranks) > max_rank:
        raise _refused(
            f"has rank {max(ranks)}, and this engine takes {max_rank} at most (POINTSMAN_LORA_MAX_LORA_RANK)",
            "rank_too_high",
        )
    return int(max(ranks))


def _target_modules(values: Mapping[str, Any]) -> tuple[str, ...]:
    modules = values.get("target_modules")
    if isinstance(modules, str) and modules:
        return (modules,)
    if isinstance(modules, list) and modules and all(isinstance(module, str) for module in modules):
        return tuple(sorted(modules))
    raise _refused(f"has target_modules {modules!r}; it must name at least one module", "bad_config")


def _refused(message: str, code: str) -> InvalidArgument:
    return InvalidArgument(f"adapter_config.json {message}", code=code, param="folder")
