"""The numbers of adapter_model.safetensors: finite, of a sane size, and not without effect."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pointsman_lora_server.checks.config import AdapterConfig
from pointsman_lora_server.checks.weights import TensorLayout, refused
from pointsman_lora_server.safetensors_header import map_bytes, values

LARGEST = 1000.0
"""No weight of a LoRA comes near it; far above it activations overflow, and one such answer silences the engine."""

LARGEST_GAIN = 1000.0
"""A linear layer of a model answers an input of size 1 with one of about 1; trained adapters add less than that, and
random ones that drown out the base about 5."""

SMALLEST_GAIN = 1e-9


def check_values(path: Path, layout: TensorLayout, config: AdapterConfig) -> None:
    """Raises InvalidArgument: not_finite, absurd_scale or no_effect."""
    data = map_bytes(path)
    for name, info in layout.header.items():
        _check_tensor(name, values(data, info))
    gains = {
        module: config.scaling_of(module) * _gain(values(data, pair.a), values(data, pair.b))
        for module, pair in layout.pairs.items()
    }
    module, largest = max(gains.items(), key=lambda each: each[1])
    if largest > LARGEST_GAIN:
        raise refused(
            f"multiplies what comes into {module} by about {largest:.3g}, where up to 1 is usual and "
            f"{LARGEST_GAIN:g} is the limit; lora_alpha or the learning rate was far too high",
            "absurd_scale",
        )
    if largest < SMALLEST_GAIN:
        raise refused("changes nothing: B @ A is zero in each module, as before training", "no_effect")


def _check_tensor(name: str, found: NDArray[np.float32]) -> None:
    if not np.isfinite(found).all():
        raise refused(
            f"holds NaN or infinity in {name}; the training broke down: a lower learning rate is the usual cure",
            "not_finite",
        )
    largest = float(np.abs(found).max(initial=0.0))
    if largest > LARGEST:
        raise refused(f"holds {largest:g} in {name}; weights above {LARGEST:g} overflow in the engine", "absurd_scale")


def _gain(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """How much larger B @ A makes a random input: its Frobenius norm, which is the square root of
    trace(BᵀB AAᵀ), over the square root of its rows."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    square = float(((wide_b.T @ wide_b) * (wide_a @ wide_a.T)).sum())
    return math.sqrt(max(square, 0.0) / max(len(b), 1))
