"""adapter_model.safetensors: every tensor has its place in the base, its pair and its shape."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pointsman_servicekit.errors import InvalidArgument

from pointsman_lora_server.checks.base import NOT_ADAPTED, BaseModelSpec
from pointsman_lora_server.checks.config import AdapterConfig
from pointsman_lora_server.checks.files import WEIGHTS
from pointsman_lora_server.safetensors_header import READABLE, TensorInfo, read_header

_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_MAGNITUDE = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_magnitude_vector(\.weight)?")
_BIAS = re.compile(r".+\.(lora_B\.)?bias")


@dataclass(frozen=True, slots=True)
class LoraPair:
    a: TensorInfo  # [rank, in]
    b: TensorInfo  # [out, rank]


@dataclass(slots=True)
class TensorLayout:
    """Which tensors the file holds, by module of the base."""

    header: Mapping[str, TensorInfo]
    pairs: dict[str, LoraPair] = field(default_factory=dict)
    magnitudes: dict[str, TensorInfo] = field(default_factory=dict)
    """A DoRA's; none of a plain LoRA."""


def read_layout(path: Path, config: AdapterConfig, base: BaseModelSpec) -> TensorLayout:
    """Raises InvalidArgument: bad_weights, unpaired_tensor, missing_tensors, unsupported_feature, unknown_module,
    wrong_rank or wrong_shape."""
    try:
        layout = TensorLayout(read_header(path))
    except (ValueError, RecursionError) as error:
        raise refused(f"is damaged: {error}; copy or save it again", "bad_weights") from error
    _sort_tensors(layout)
    for module, pair in layout.pairs.items():
        _check_module(module, config, base)
        _check_shapes(module, pair, config, base)
    _check_completeness(layout, config)
    _check_magnitudes(layout, config)
    return layout


def _sort_tensors(layout: TensorLayout) -> None:
    sides: dict[str, dict[str, TensorInfo]] = {}
    for name, info in layout.header.items():
        if found := _TENSOR.fullmatch(name):
            sides.setdefault(found["module"], {})[found["side"]] = info
        elif found := _MAGNITUDE.fullmatch(name):
            layout.magnitudes[found["module"]] = info
        else:
            raise _strange(name)
        if info.dtype not in READABLE:
            raise refused(f"holds {name} as {info.dtype}; it must be one of {', '.join(READABLE)}", "bad_weights")
    if not sides:
        raise refused("holds no tensor of a LoRA; save the adapter again", "bad_weights")
    for module, both in sides.items():
        if len(both) != 2:
            raise refused(f"has only lora_{next(iter(both))} of {module}; save both halves", "unpaired_tensor")
        layout.pairs[module] = LoraPair(both["A"], both["B"])


def _strange(name: str) -> InvalidArgument:
    if "lora_embedding" in name:
        return refused(f"adapts the embedding ({name}), which the engine does not serve", "unsupported_feature")
    if _BIAS.fullmatch(name):
        return refused(f"holds a bias ({name}), which the engine does not serve; train without", "unsupported_feature")
    return refused(
        f"holds {name!r}; a LoRA's are named 'base_model.model.MODULE.lora_A.weight' and '...lora_B.weight'",
        "bad_weights",
    )


def _check_module(module: str, config: AdapterConfig, base: BaseModelSpec) -> None:
    if module.rpartition(".")[2] in NOT_ADAPTED:
        raise refused(f"adapts {module}, which the engine does not serve", "unsupported_feature")
    if module not in base.layers:
        raise refused(
            f"adapts {module}, and '{base.served_name}' has no such linear layer; it is an adapter of another model",
            "unknown_module",
        )
    if not config.targets.includes(module):
        raise refused(f"adapts {module}, which target_modules does not name: PEFT would ignore it", "bad_weights")


def _check_shapes(module: str, pair: LoraPair, config: AdapterConfig, base: BaseModelSpec) -> None:
    a, b = pair.a.shape, pair.b.shape
    if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
        raise refused(
            f"has lora_A {list(a)} and lora_B {list(b)} for {module}; they must be [rank, in] and [out, rank]",
            "wrong_shape",
        )
    if a[0] != config.rank_of(module):
        raise refused(
            f"has rank {a[0]} for {module}, and adapter_config.json says {config.rank_of(module)}; "
            "the two files are of two adapters",
            "wrong_rank",
        )
    rows, columns = base.layers[module]
    if (b[0], a[1]) != (rows, columns):
        raise refused(
            f"adapts {module} as [{b[0]}, {a[1]}], and in '{base.served_name}' it is [{rows}, {columns}]; "
            "it is an adapter of another model",
            "wrong_shape",
        )


def _check_completeness(layout: TensorLayout, config: AdapterConfig) -> None:
    missing = sorted(config.targets.all_of - layout.pairs.keys())
    if missing:
        raise refused(
            f"lacks the tensors of {len(missing)} modules that target_modules names, {missing[0]} the first; "
            "save the adapter again, or name layers_to_transform",
            "missing_tensors",
        )
    if not config.targets.by_pattern:
        for name in config.targets.named:
            if not any(module == name or module.endswith(f".{name}") for module in layout.pairs):
                raise refused(f"lacks the tensors of {name!r}, which target_modules names", "missing_tensors")


def _check_magnitudes(layout: TensorLayout, config: AdapterConfig) -> None:
    if layout.magnitudes and not config.dora:
        raise refused("holds magnitudes (DoRA), and adapter_config.json has no use_dora; save it again", "bad_weights")
    if not config.dora:
        return
    if layout.magnitudes.keys() != layout.pairs.keys():
        odd = sorted(layout.magnitudes.keys() ^ layout.pairs.keys())[0]
        raise refused(f"has no magnitude (DoRA) to match {odd}; save the adapter again", "missing_tensors")
    for module, info in layout.magnitudes.items():
        rows = layout.pairs[module].b.shape[0]
        if info.shape not in ((rows,), (rows, 1), (1, rows)):
            raise refused(f"has a magnitude of {list(info.shape)} for {module}; it must be [{rows}]", "wrong_shape")


def refused(message: str, code: str) -> InvalidArgument:
    return InvalidArgument(f"{WEIGHTS} {message}", code=code, param="folder")
