"""adapter_model.safetensors: every tensor has its place in the base, its pair, its shape, and sound values."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pointsman_servicekit.errors import InvalidArgument

from pointsman_lora_server.checks.base import Base
from pointsman_lora_server.checks.config import AdapterConfig
from pointsman_lora_server.checks.files import WEIGHTS
from pointsman_lora_server.safetensors_header import TensorInfo, read_header

LARGEST = 1000.0
"""No weight of a LoRA comes near it; far above it activations overflow, and one such answer silences the engine."""

_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


def check_weights(path: Path, config: AdapterConfig, base: Base) -> None:
    """Raises InvalidArgument: bad_weights, wrong_base_model, unsupported_feature, not_finite or no_effect."""
    try:
        header = read_header(path)
    except ValueError as error:
        raise _refused(f"is damaged: {error}", "bad_weights") from error
    pairs = _pairs(header)
    for module, (a, b) in pairs.items():
        _check_shapes(module, a, b, config, base)
    with path.open("rb") as file:
        data = np.memmap(file, dtype=np.uint8, mode="r")
        for name, info in header.items():
            _check_values(name, _values(data, info))
        if not any(_values(data, a).any() and _values(data, b).any() for a, b in pairs.values()):
            raise _refused("changes nothing: each lora_B (or lora_A) is zero, as before training", "no_effect")


def _pairs(header: Mapping[str, TensorInfo]) -> dict[str, tuple[TensorInfo, TensorInfo]]:
    sides: dict[str, dict[str, TensorInfo]] = {}
    for name, info in header.items():
        found = _TENSOR.fullmatch(name)
        if not found:
            if "lora_embedding" in name:
                raise _refused(f"adapts the embedding ({name}), which the engine does not serve", "unsupported_feature")
            raise _refused(
                f"holds {name!r}; a LoRA's are named 'base_model.model.MODULE.lora_A.weight' and '...lora_B.weight'",
                "bad_weights",
            )
        if info.dtype not in _READ:
            raise _refused(f"holds {name} as {info.dtype}; it must be one of {', '.join(_READ)}", "bad_weights")
        sides.setdefault(found["module"], {})[found["side"]] = info
    if not sides:
        raise _refused("holds no tensor", "bad_weights")
    for module, both in sides.items():
        if len(both) != 2:
            raise _refused(f"has only lora_{next(iter(both))} of {module}", "bad_weights")
    return {module: (both["A"], both["B"]) for module, both in sides.items()}


def _check_shapes(module: str, a: TensorInfo, b: TensorInfo, config: AdapterConfig, base: Base) -> None:
    if module.rpartition(".")[2] in ("embed_tokens", "lm_head"):
        raise _refused(f"adapts {module}, which the engine does not serve", "unsupported_feature")
    if module not in base.layers:
        raise _refused(f"adapts {module}, and '{base.served_name}' has no such linear layer", "wrong_base_model")
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
        raise _refused(
            f"has lora_A {list(a.shape)} and lora_B {list(b.shape)} for {module}; "
            "they must be [rank, in] and [out, rank]",
            "bad_weights",
        )
    rank = a.shape[0]
    if rank != config.rank and not (config.ranks_differ and 1 <= rank <= config.rank):
        raise _refused(f"has rank {rank} for {module}, and adapter_config.json says {config.rank}", "bad_weights")
    rows, columns = base.layers[module]
    if (b.shape[0], a.shape[1]) != (rows, columns):
        raise _refused(
            f"adapts {module} as [{b.shape[0]}, {a.shape[1]}], and in '{base.served_name}' it is [{rows}, {columns}]",
            "wrong_base_model",
        )


def _check_values(name: str, values: NDArray[np.float32]) -> None:
    if not np.isfinite(values).all():
        raise _refused(f"holds NaN or infinity in {name}", "not_finite")
    largest = float(np.abs(values).max(initial=0.0))
    if largest > LARGEST:
        raise _refused(f"holds {largest:g} in {name}; weights above {LARGEST:g} overflow in the engine", "not_finite")


def _values(data: NDArray[np.uint8], info: TensorInfo) -> NDArray[np.float32]:
    return _READ[info.dtype](data[info.start : info.end])


def _from_bf16(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """numpy knows no bf16: it is the upper half of a float32."""
    return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


_READ: Mapping[str, Callable[[NDArray[np.uint8]], NDArray[np.float32]]] = {
    "F32": lambda raw: raw.view(np.float32),
    "F16": lambda raw: raw.view(np.float16).astype(np.float32),
    "BF16": _from_bf16,
}


def _refused(message: str, code: str) -> InvalidArgument:
    return InvalidArgument(f"{WEIGHTS} {message}", code=code, param="folder")
