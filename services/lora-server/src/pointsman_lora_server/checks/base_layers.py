"""Reads the properties of the base model that the checks of adapters need: its names, its linear layers and their
weights, and its digests.
"""

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
"""The last parts of the names of the embedding and the output layer. The engine has only limited support for adapters
of these layers."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    dtype: str
    """The number type, as named in the safetensors file: "F32", "BF16", ..."""
    shape: tuple[int, ...]
    start: int
    """The offset in bytes from the start of the file at which the tensor's values begin; they end before the offset
    `end`."""
    end: int


def read_header(path: Path) -> Mapping[str, TensorInfo]:
    """Returns tensor name -> type, shape and position of each tensor in a safetensors file.

    The safetensors library validates the file (offsets, overlaps, length). Its numpy interface does not support bf16,
    so this module reads the tensors' values itself. Raises ValueError if the file is damaged, and OSError if it cannot
    be read.
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
    """Maps the file into memory, read-only; its pages are read from disk when they are accessed."""
    return np.memmap(path, dtype=np.uint8, mode="r")


def is_readable(info: TensorInfo) -> bool:
    """Returns whether `values` can read a tensor of this type, one of `READABLE_TYPES`."""
    return info.dtype in READABLE_TYPES


def values(data: NDArray[np.uint8], info: TensorInfo) -> NDArray[np.float32]:
    """Returns a tensor's values in its shape. `data` is the content of the whole safetensors file.

    Raises KeyError if the tensor's type is not one of `READABLE_TYPES`.
    """
    return READABLE_TYPES[info.dtype](data[info.start : info.end]).reshape(info.shape)


def _from_bf16(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Converts bf16, which numpy does not have, to float32. A bf16 value is the upper half of a float32."""
    return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds a JSON object from its pairs. Raises ValueError if a name occurs twice, since parsers differ in which of
    the values they use.
    """
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
    """The names that an adapter's configuration may state for this base model."""
    layers: Mapping[str, tuple[int, int]]
    """Name of each linear layer, such as "model.layers.0.self_attn.q_proj" -> (outputs, inputs)."""
    digest: str = ""
    """SHA-256 of the weights; empty if the model's folder does not state it."""
    chat_template_sha256: str = ""
    places: Mapping[str, tuple[Path, TensorInfo]] = field(default_factory=dict)
    """Name of each linear layer -> the file with its weight, and the position of the weight in the file."""

    def max_adapter_bytes(self, rank: int) -> int:
        """Returns the largest possible size, in bytes, of the weights file of an adapter with this rank.

        An adapter of this size changes all layers in fp32 and has a DoRA magnitude for each output.
        """
        return MAX_HEADER_BYTES + sum(
            (rank * (rows + columns) + rows) * FP32_BYTES for rows, columns in self.layers.values()
        )

    def weight(self, module: str) -> NDArray[np.float32] | None:
        """Returns the weight of a linear layer, shape [outputs, inputs]; None if `module` is not a known layer, or its
        weight is quantized and cannot be read.
        """
        path, info = self.places.get(module, (None, None))
        if path is None or info is None or not is_readable(info):
            return None
        return values(map_bytes(path), info)


def read_base(folder: Path, served_name: str, other_names: Collection[str] = ()) -> BaseModelSpec:
    """Reads a base model's names, digests and linear layers (without NOT_ADAPTABLE) from its folder. The weights
    themselves are not read.

    An adapter may state the base model by `served_name`, `other_names`, the folder's path, and the name and digest in
    pointsman.json. Raises OSError if `folder` contains no model, or its weights files are damaged.
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
    """Reads a JSON object; returns an empty one if the file cannot be read or has other content."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
