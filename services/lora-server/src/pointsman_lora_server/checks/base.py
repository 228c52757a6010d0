"""The base model as the checks need it: by which names adapters call it, its linear layers, what its folder says."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointsman_lora_server.safetensors_header import TensorInfo, is_readable, map_bytes, read_header, values

BYTES_OF_FP32 = 4
ROOM_FOR_HEADER = 1 << 20
NOT_ADAPTED = ("embed_tokens", "lm_head")  # not linear layers of a block: the engine has other, limited code for them


@dataclass(frozen=True, slots=True)
class BaseModelSpec:
    served_name: str
    names: frozenset[str]
    layers: Mapping[str, tuple[int, int]]  # "model.layers.0.self_attn.q_proj" -> (out, in)
    digest: str = ""
    """Of its weights; empty where its folder names none."""
    chat_template_sha256: str = ""
    places: Mapping[str, tuple[Path, TensorInfo]] = field(default_factory=dict)
    """Where each of the layers' weights lie."""

    def most_bytes(self, rank: int) -> int:
        """How large an adapter's weights can be at most: all layers, in fp32, with a magnitude for each row (DoRA)."""
        return ROOM_FOR_HEADER + sum(
            (rank * (rows + columns) + rows) * BYTES_OF_FP32 for rows, columns in self.layers.values()
        )

    def weight(self, module: str) -> NDArray[np.float32] | None:
        """[out, in]; None where it is quantized, and so cannot be read as it is."""
        path, info = self.places.get(module, (None, None))
        if path is None or info is None or not is_readable(info):
            return None
        return values(map_bytes(path), info)


def read_base(folder: Path, served_name: str) -> BaseModelSpec:
    """Raises OSError where `folder` holds no model."""
    shards = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not shards:
        raise FileNotFoundError(
            f"the base model's folder {folder} holds no config.json and *.safetensors; "
            "make it with `python -m pointsman_lora_server.base_model FOLDER` in the engine's environment"
        )
    places: dict[str, tuple[Path, TensorInfo]] = {}
    for shard in shards:
        try:
            header = read_header(shard)
        except ValueError as error:
            raise OSError(f"the base model's {shard} is damaged: {error}") from error
        for name, info in header.items():
            module, _, last = name.rpartition(".")
            if last == "weight" and len(info.shape) == 2 and module.rpartition(".")[2] not in NOT_ADAPTED:
                places[module] = (shard, info)
    mark = _json_object(folder / "pointsman.json")
    marked = {value for value in (mark.get("name"), mark.get("digest")) if isinstance(value, str)}
    return BaseModelSpec(
        served_name,
        frozenset({served_name, str(folder.resolve()), *marked}),
        {module: (info.shape[0], info.shape[1]) for module, (_, info) in places.items()},
        digest=mark["digest"] if isinstance(mark.get("digest"), str) else "",
        chat_template_sha256=_chat_template_sha256(folder),
        places=places,
    )


def _chat_template_sha256(folder: Path) -> str:
    """Where transformers looks for it: its own file, or the tokenizer's configuration; empty where there is none."""
    try:
        template: Any = (folder / "chat_template.jinja").read_text("utf-8")
    except (OSError, ValueError):
        template = _json_object(folder / "tokenizer_config.json").get("chat_template")
        if isinstance(template, list):  # several by name
            template = next((each.get("template") for each in template if each.get("name") == "default"), None)
    return hashlib.sha256(template.encode()).hexdigest() if isinstance(template, str) else ""


def _json_object(path: Path) -> Mapping[str, Any]:
    """Empty where there is none: `base_model.py` writes pointsman.json, and a folder from elsewhere has none."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
