"""Reads what the checks need of the base model: its names, its linear layers and their weights, and its digests."""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

FP32_BYTES = 4
MAX_HEADER_BYTES = 1 << 20
NOT_ADAPTABLE = ("embed_tokens", "lm_head")
"""The embedding and the output layer, for which the engine supports adapters in a limited way only."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    dtype: str
    """The number type as the file names it: "F32", "BF16", ..."""
    shape: tuple[int, ...]
    start: int
    """Where the values begin in the file, in bytes from its start; `end` is where they end."""
    end: int


def read_header(path: Path) -> Mapping[str, TensorInfo]:
    """Returns the type, shape and place of each tensor in a safetensors file, by name.

    The safetensors library validates the file (offsets, overlaps, length). The values are read here, since its numpy
    interface does not support bf16. Raises ValueError if the file is damaged, OSError if it cannot be read.
    """
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length), object_pairs_hook=_unique_names)
    header.pop("__metadata__", None)
    data = 8 + length
    return {
        name: TensorInfo(
            info["dtype"], tuple(info["shape"]), data + info["data_offsets"][0], data + info["data_offsets"][1]
        )
        for name, info in header.items()
    }


def map_bytes(path: Path) -> NDArray[np.uint8]:
    """Maps the file into memory, read-only; pages are read from disk when they are accessed."""
    return np.memmap(path, dtype=np.uint8, mode="r")


def is_readable(info: TensorInfo) -> bool:
    """Returns whether `values` supports the tensor's type, one of `READABLE_TYPES`."""
    return info.dtype in READABLE_TYPES


def values(data: NDArray[np.uint8], info: TensorInfo) -> NDArray[np.float32]:
    """Returns the values of a tensor in its shape; `data` is the content of the whole safetensors file.

    Raises KeyError if `is_readable` is False for the tensor's type.
    """
    return READABLE_TYPES[info.dtype](data[info.start : info.end]).reshape(info.shape)


def _from_bf16(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Converts bf16, which numpy does not have, to float32. A bf16 value is the upper half of a float32."""
    return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds a JSON object; raises ValueError if a name appears twice, since parsers differ in which entry they use."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name appears twice in its header")
    return result


READABLE_TYPES: Mapping[str, Callable[[NDArray[np.uint8]], NDArray[np.float32]]] = {
    "F32": lambda raw: raw.view(np.float32),
    "F16": lambda raw: raw.view(np.float16).astype(np.float32),
    "BF16": _from_bf16,
}


@dataclass(frozen=True, slots=True)
class BaseModelSpec:
    served_name: str
    names: frozenset[str]
    """The names by which an adapter may state this base model."""
    layers: Mapping[str, tuple[int, int]]
    """Linear layer, such as "model.layers.0.self_attn.q_proj", -> (outputs, inputs)."""
    digest: str = ""
    """SHA-256 of the weights, empty if the model's folder does not state it."""
    chat_template_sha256: str = ""
    places: Mapping[str, tuple[Path, TensorInfo]] = field(default_factory=dict)
    """Linear layer -> the file that contains its weight, and the weight's place in it."""

    def max_adapter_bytes(self, rank: int) -> int:
        """Returns the largest size of an adapter's weights file in bytes.

        That is the size with all layers in fp32 at this rank, and a DoRA magnitude for each output.
        """
        return MAX_HEADER_BYTES + sum(
            (rank * (rows + columns) + rows) * FP32_BYTES for rows, columns in self.layers.values()
        )

    def weight(self, module: str) -> NDArray[np.float32] | None:
        """Returns a module's weight [outputs, inputs]; None if the module is unknown, or quantized, which cannot be
        read.
        """
        path, info = self.places.get(module, (None, None))
        if path is None or info is None or not is_readable(info):
            return None
        return values(map_bytes(path), info)


def read_base(folder: Path, served_name: str, other_names: Collection[str] = ()) -> BaseModelSpec:
    """Reads a base model's names, digests and linear layers (without NOT_ADAPTABLE) from its folder, but no weights.

    These names are accepted as the base model of an adapter: `served_name`, `other_names`, the folder's path, and the
    name and digest in pointsman.json. Raises OSError if `folder` contains no model, or damaged weights.
    """
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
            module, _, parameter = name.rpartition(".")
            if parameter == "weight" and len(info.shape) == 2 and module.rpartition(".")[2] not in NOT_ADAPTABLE:
                places[module] = (shard, info)
    marker = _json_object(folder / "pointsman.json")
    marked_names = {value for value in (marker.get("name"), marker.get("digest")) if isinstance(value, str)}
    return BaseModelSpec(
        served_name,
        frozenset({served_name, str(folder.resolve()), *marked_names, *other_names}),
        {module: (info.shape[0], info.shape[1]) for module, (_, info) in places.items()},
        digest=marker["digest"] if isinstance(marker.get("digest"), str) else "",
        chat_template_sha256=_chat_template_sha256(folder),
        places=places,
    )


def _chat_template_sha256(folder: Path) -> str:
    """Returns the SHA-256 of the model's default chat template, which is in chat_template.jinja or
    tokenizer_config.json; empty if there is none.
    """
    try:
        template: Any = (folder / "chat_template.jinja").read_text("utf-8")
    except (OSError, ValueError):
        template = _json_object(folder / "tokenizer_config.json").get("chat_template")
        if isinstance(template, list):  # several templates by name
            named = (each for each in template if isinstance(each, dict))
            template = next((each.get("template") for each in named if each.get("name") == "default"), None)
    return hashlib.sha256(template.encode()).hexdigest() if isinstance(template, str) else ""


def _json_object(path: Path) -> Mapping[str, Any]:
    """Reads a JSON object; returns an empty one if the file does not exist or holds something else."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
