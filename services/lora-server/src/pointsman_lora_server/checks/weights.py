"""Checks an adapter's adapter_model.safetensors: tensor names, shapes and values. Converts a DoRA to a plain LoRA if
the result is exact.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pointsman_servicekit.errors import InvalidArgument
from safetensors.numpy import save_file

from pointsman_lora_server.checks.base_layers import (
    NOT_ADAPTABLE,
    READABLE_TYPES,
    BaseModelSpec,
    TensorInfo,
    map_bytes,
    read_header,
    values,
)
from pointsman_lora_server.checks.config import AdapterConfig
from pointsman_lora_server.checks.untrusted_input import WEIGHTS

MAX_WEIGHT = 1000.0
"""The largest absolute value that a weight may have. Weights of trained LoRAs are far smaller. Weights far above this
make activations overflow, after which the engine may stop answering."""

MAX_GAIN = 1000.0
"""The largest factor by which an adapter's change of a layer may multiply the size of the layer's input. The layer
itself turns an input of size 1 into an output of about 1. Trained adapters add less than that, and random ones that
outweigh the base model about 5."""

MIN_GAIN = 1e-9

MAX_DORA_DEVIATION = 2.0**-8
"""The largest relative difference between a DoRA's magnitudes and the norms with which the DoRA would be a plain LoRA.
It is the relative error of rounding to bf16, in which the engine computes."""

MERGE_COMMAND = "python -m pointsman_lora_server.smoke.merge --base BASE --adapter FOLDER --out NEW_FOLDER"

_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_MAGNITUDE = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_magnitude_vector(\.weight)?")
_BIAS = re.compile(r".+\.(lora_B\.)?bias")


@dataclass(frozen=True, slots=True)
class LoraPair:
    """The two LoRA factors of one module, whose change is B @ A: `a` has the shape [rank, inputs], `b` [outputs,
    rank].
    """

    a: TensorInfo
    b: TensorInfo


@dataclass(slots=True)
class TensorLayout:
    """The positions of the tensors in an adapter's weights file, by the module of the base model that they change."""

    header: Mapping[str, TensorInfo]
    """Name of each tensor in the file -> its type, shape and position."""
    pairs: dict[str, LoraPair] = field(default_factory=dict)
    """Module -> its two LoRA factors."""
    magnitudes: dict[str, TensorInfo] = field(default_factory=dict)
    """Module -> its DoRA magnitudes; empty unless the adapter is a DoRA."""


def read_layout(path: Path, config: AdapterConfig, base: BaseModelSpec) -> TensorLayout:
    """Reads the names and shapes of the tensors in an adapter's weights file, and checks them against its configuration
    and the base model.

    Raises InvalidArgument with the code bad_weights, unpaired_tensor, missing_tensors, unsupported_feature,
    unknown_module, wrong_rank, wrong_shape or bad_config.
    """
    try:
        layout = TensorLayout(read_header(path))
    except (ValueError, RecursionError) as error:
        raise weights_error(f"is damaged: {error}; copy or save it again", "bad_weights") from error
    _sort_tensors(layout)
    for module, pair in layout.pairs.items():
        _check_module(module, config, base)
        _check_shapes(module, pair, config, base)
    _check_completeness(layout, config)
    _check_magnitudes(layout, config)
    return layout


def check_values(path: Path, layout: TensorLayout, config: AdapterConfig) -> None:
    """Checks the values of an adapter's tensors.

    Raises InvalidArgument with the code not_finite (NaN or infinity), absurd_scale (values that would overflow),
    no_effect (the adapter changes nothing) or bad_config.
    """
    data = map_bytes(path)
    for name, info in layout.header.items():
        _check_tensor(name, values(data, info))
    gains = {
        module: config.scaling_of(module) * _gain(values(data, pair.a), values(data, pair.b))
        for module, pair in layout.pairs.items()
    }
    module, largest = max(gains.items(), key=lambda each: each[1])
    if largest > MAX_GAIN:
        raise weights_error(
            f"multiplies the input of {module} by about {largest:.3g}; up to 1 is usual and {MAX_GAIN:g} is the limit. "
            "lora_alpha or the learning rate was far too high",
            "absurd_scale",
        )
    if largest < MIN_GAIN:
        raise weights_error("changes nothing: B @ A is zero in each module, as before training", "no_effect")


def convert_dora(path: Path, layout: TensorLayout, config: AdapterConfig, base: BaseModelSpec) -> float:
    """Converts the weights file of a DoRA at `path` to a plain LoRA by removing the magnitudes, if this does not change
    the adapter's effect.

    Returns the largest relative difference between a magnitude and the norm to which it should be equal. DoRA computes
    m * (W + s B A) / |W + s B A| with the norm of each row (https://arxiv.org/abs/2402.09353), where m is the
    magnitude, W the base model's weight, s the scaling, and A and B the LoRA factors. If m is equal to the norm, the
    result is W + s B A, the plain LoRA, which is all that the engine can compute.

    Raises InvalidArgument ("dora_not_exact") if a magnitude differs by more than `MAX_DORA_DEVIATION`, or the base
    model's weight is quantized and cannot be compared. The file is not changed then.
    """
    data = map_bytes(path)
    worst, worst_module = 0.0, ""
    for module, pair in layout.pairs.items():
        weight = base.weight(module)
        if weight is None:
            raise weights_error(
                f"is a DoRA, and the base's {module} is quantized, so it cannot be compared with a plain LoRA; train a "
                f"LoRA, or merge it into full weights: {MERGE_COMMAND}",
                "dora_not_exact",
            )
        change = config.scaling_of(module) * (values(data, pair.b) @ values(data, pair.a))
        norms = np.linalg.norm(weight + change, axis=1)
        magnitude = values(data, layout.magnitudes[module]).reshape(-1)
        deviation = float((np.abs(magnitude - norms) / np.maximum(norms, np.finfo(np.float32).tiny)).max())
        if deviation > worst:
            worst, worst_module = deviation, module
    if worst > MAX_DORA_DEVIATION:
        raise weights_error(
            f"is a DoRA whose magnitudes change the weights by up to {worst:.2%} (in {worst_module}; up to "
            f"{MAX_DORA_DEVIATION:.2%} is rounding): the engine would serve it without them, and so another model. "
            "Train a LoRA or rsLoRA, or merge it into full weights and serve them by an engine of their own: "
            f"{MERGE_COMMAND}",
            "dora_not_exact",
        )
    tensors = {name: values(data, info) for name, info in layout.header.items() if "lora_magnitude_vector" not in name}
    plain = path.with_suffix(".plain")
    save_file(tensors, plain, metadata={"format": "pt"})
    plain.replace(path)
    return worst


def weights_error(message: str, code: str) -> InvalidArgument:
    return InvalidArgument(f"{WEIGHTS} {message}", code=code, param="folder")


def _sort_tensors(layout: TensorLayout) -> None:
    sides: dict[str, dict[str, TensorInfo]] = {}
    for name, info in layout.header.items():
        if match := _TENSOR.fullmatch(name):
            sides.setdefault(match["module"], {})[match["side"]] = info
        elif match := _MAGNITUDE.fullmatch(name):
            layout.magnitudes[match["module"]] = info
        else:
            raise _unknown_tensor(name)
        if info.dtype not in READABLE_TYPES:
            raise weights_error(
                f"holds {name} as {info.dtype}; it must be one of {', '.join(READABLE_TYPES)}", "bad_weights"
            )
    if not sides:
        raise weights_error("holds no tensor of a LoRA; save the adapter again", "bad_weights")
    for module, both in sides.items():
        if len(both) != 2:
            raise weights_error(f"has only lora_{next(iter(both))} of {module}; save both halves", "unpaired_tensor")
        layout.pairs[module] = LoraPair(both["A"], both["B"])


def _unknown_tensor(name: str) -> InvalidArgument:
    if "lora_embedding" in name:
        return weights_error(f"adapts the embedding ({name}), which the engine does not serve", "unsupported_feature")
    if _BIAS.fullmatch(name):
        return weights_error(
            f"holds a bias ({name}), which the engine does not serve; train without", "unsupported_feature"
        )
    return weights_error(
        f"holds {name!r}; the tensors of a LoRA are named 'base_model.model.MODULE.lora_A.weight' and "
        "'...lora_B.weight'",
        "bad_weights",
    )


def _check_module(module: str, config: AdapterConfig, base: BaseModelSpec) -> None:
    if module.rpartition(".")[2] in NOT_ADAPTABLE:
        raise weights_error(f"adapts {module}, which the engine does not serve", "unsupported_feature")
    if module not in base.layers:
        raise weights_error(
            f"adapts {module}, and '{base.served_name}' has no such linear layer; it is an adapter of another model",
            "unknown_module",
        )
    if not config.targets.includes(module):
        raise weights_error(f"adapts {module}, which target_modules does not name: PEFT would ignore it", "bad_weights")


def _check_shapes(module: str, pair: LoraPair, config: AdapterConfig, base: BaseModelSpec) -> None:
    a, b = pair.a.shape, pair.b.shape
    if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
        raise weights_error(
            f"has lora_A {list(a)} and lora_B {list(b)} for {module}; they must be [rank, in] and [out, rank]",
            "wrong_shape",
        )
    if a[0] != config.rank_of(module):
        raise weights_error(
            f"has rank {a[0]} for {module}, but adapter_config.json says {config.rank_of(module)}; "
            "the two files belong to different adapters",
            "wrong_rank",
        )
    rows, columns = base.layers[module]
    if (b[0], a[1]) != (rows, columns):
        raise weights_error(
            f"adapts {module} as [{b[0]}, {a[1]}], but in '{base.served_name}' it is [{rows}, {columns}]; "
            "it is an adapter of another model",
            "wrong_shape",
        )


def _check_completeness(layout: TensorLayout, config: AdapterConfig) -> None:
    missing = sorted(config.targets.required - layout.pairs.keys())
    if missing:
        raise weights_error(
            f"lacks the tensors of {len(missing)} modules that target_modules names, such as {missing[0]}; "
            "save the adapter again, or name layers_to_transform",
            "missing_tensors",
        )
    if not config.targets.by_pattern:
        for name in config.targets.names:
            if not any(module == name or module.endswith(f".{name}") for module in layout.pairs):
                raise weights_error(f"lacks the tensors of {name!r}, which target_modules names", "missing_tensors")


def _check_magnitudes(layout: TensorLayout, config: AdapterConfig) -> None:
    if layout.magnitudes and not config.is_dora:
        raise weights_error(
            "holds magnitudes (DoRA), but adapter_config.json has no use_dora; save it again", "bad_weights"
        )
    if not config.is_dora:
        return
    if layout.magnitudes.keys() != layout.pairs.keys():
        odd = sorted(layout.magnitudes.keys() ^ layout.pairs.keys())[0]
        raise weights_error(f"has no magnitude (DoRA) to match {odd}; save the adapter again", "missing_tensors")
    for module, info in layout.magnitudes.items():
        rows = layout.pairs[module].b.shape[0]
        if info.shape not in ((rows,), (rows, 1), (1, rows)):
            raise weights_error(
                f"has a magnitude of {list(info.shape)} for {module}; it must be [{rows}]", "wrong_shape"
            )


def _check_tensor(name: str, tensor: NDArray[np.float32]) -> None:
    if not np.isfinite(tensor).all():
        raise weights_error(
            f"holds NaN or infinity in {name}; the training diverged: a lower learning rate usually helps",
            "not_finite",
        )
    largest = float(np.abs(tensor).max(initial=0.0))
    if largest > MAX_WEIGHT:
        raise weights_error(
            f"holds {largest:g} in {name}; weights above {MAX_WEIGHT:g} overflow in the engine", "absurd_scale"
        )


def _gain(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Returns the factor by which B @ A multiplies the size of a random input: the Frobenius norm of B @ A, which is
    the square root of trace(BᵀB AAᵀ), divided by the square root of the number of rows of B @ A.
    """
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    square = float(((wide_b.T @ wide_b) * (wide_a @ wide_a.T)).sum())
    return math.sqrt(max(square, 0.0) / max(len(b), 1))
