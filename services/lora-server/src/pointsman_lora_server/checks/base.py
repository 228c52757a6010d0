"""The base model as the checks need it: by which names adapters call it, and the shapes of its linear layers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pointsman_lora_server.safetensors_header import read_header

BYTES_OF_FP32 = 4
ROOM_FOR_HEADER = 1 << 20
NOT_ADAPTED = ("embed_tokens", "lm_head")  # not linear layers of a block: the engine has other, limited code for them


@dataclass(frozen=True, slots=True)
class Base:
    served_name: str
    names: frozenset[str]
    layers: Mapping[str, tuple[int, int]]  # "model.layers.0.self_attn.q_proj" -> (out, in)

    def most_bytes(self, rank: int) -> int:
        """How large an adapter's weights can be at most: all layers, in fp32."""
        return ROOM_FOR_HEADER + sum(rank * (rows + columns) * BYTES_OF_FP32 for rows, columns in self.layers.values())


def read_base(folder: Path, served_name: str) -> Base:
    """Raises OSError where `folder` holds no model."""
    shards = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not shards:
        raise FileNotFoundError(
            f"the base model's folder {folder} holds no config.json and *.safetensors; "
            "make it with `python -m pointsman_lora_server.base_model FOLDER` in the engine's environment"
        )
    layers: dict[str, tuple[int, int]] = {}
    for shard in shards:
        try:
            header = read_header(shard)
        except ValueError as error:
            raise OSError(f"the base model's {shard} is damaged: {error}") from error
        for name, info in header.items():
            module, _, last = name.rpartition(".")
            if last == "weight" and len(info.shape) == 2 and module.rpartition(".")[2] not in NOT_ADAPTED:
                layers[module] = (info.shape[0], info.shape[1])
    return Base(served_name, frozenset({served_name, str(folder.resolve()), *_marked_names(folder)}), layers)


def _marked_names(folder: Path) -> set[str]:
    """The name and the digest that `base_model.py` wrote; a folder from elsewhere has none."""
    try:
        mark = json.loads((folder / "pointsman.json").read_text("utf-8"))
    except (OSError, ValueError):
        return set()
    return {value for value in (mark.get("name"), mark.get("digest")) if isinstance(value, str)}
