"""DoRA: served as a plain LoRA where its magnitudes change nothing, and refused with the measured reason elsewhere.

DoRA computes m * (W + s B A) / |W + s B A| with the norm of each row (https://arxiv.org/abs/2402.09353). Where m is
that norm already, this is W + s B A: the LoRA without the magnitudes. The engine knows no other.
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from pointsman_lora_server.checks.base import BaseModelSpec
from pointsman_lora_server.checks.config import AdapterConfig
from pointsman_lora_server.checks.weights import TensorLayout, refused
from pointsman_lora_server.safetensors_header import map_bytes, values

TOLERANCE = 2.0**-8
"""Relative: what rounding to bf16, in which the engine computes, may change of a number."""

MERGE = "python -m pointsman_lora_server.smoke.merge --base BASE --adapter FOLDER --out NEW_FOLDER"


def make_plain(path: Path, layout: TensorLayout, config: AdapterConfig, base: BaseModelSpec) -> float:
    """Rewrites the file at `path` without magnitudes; returns by how much, relatively, they differ from the norms.

    Raises InvalidArgument ("dora_not_exact").
    """
    data = map_bytes(path)
    worst, where = 0.0, ""
    for module, pair in layout.pairs.items():
        weight = base.weight(module)
        if weight is None:
            raise refused(
                f"is a DoRA, and the base's {module} is quantized, so that nobody can say whether it equals a plain "
                f"LoRA; train a LoRA, or merge it into full weights: {MERGE}",
                "dora_not_exact",
            )
        change = config.scaling_of(module) * (values(data, pair.b) @ values(data, pair.a))
        norms = np.linalg.norm(weight + change, axis=1)
        magnitude = values(data, layout.magnitudes[module]).reshape(-1)
        deviation = float((np.abs(magnitude - norms) / np.maximum(norms, np.finfo(np.float32).tiny)).max())
        if deviation > worst:
            worst, where = deviation, module
    if worst > TOLERANCE:
        raise refused(
            f"is a DoRA whose magnitudes change the weights by up to {worst:.2%} (in {where}; up to {TOLERANCE:.2%} is "
            "rounding): the engine would serve it without them, and so another model. Train a LoRA or rsLoRA, or merge "
            f"it into full weights for an engine of their own: {MERGE}",
            "dora_not_exact",
        )
    tensors = {name: values(data, info) for name, info in layout.header.items() if "lora_magnitude_vector" not in name}
    plain = path.with_suffix(".plain")
    save_file(tensors, plain, metadata={"format": "pt"})
    plain.replace(path)
    return worst
