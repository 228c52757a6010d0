"""Compares an adapter's layers with those of the base model, since vLLM also loads adapters of other models.

vLLM ignores layers that the base model does not have. If a weight has another size, it computes with the part that
exists.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ADAPTER_WEIGHTS = "adapter_model.safetensors"
MAX_HEADER_BYTES = 100 << 20
"""The largest header that the safetensors format allows, in bytes."""
UNREAD_PREFIXES = ("consolidated", "model-rank-", "adapter_")
"""Beginnings of the names of safetensors files that are not read: files of Mistral's own format and of vLLM's format
sharded_state, in which layers have other names than in adapters, and files of adapters."""
_EXPERTS = re.compile(r".+\.experts(?=\.|$)")
_LORA = re.compile(r"(?:base_model\.model\.)?(?P<layer>.+)\.lora_(?P<side>[AB])\.weight")
_NUMBERED = re.compile(r"[^.]+\.\d+\..+")
_UNPACKED = ("F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
"""The number types of which a weight tensor has the same shape as its layer. Tensors of quantized types are packed."""

Shape = tuple[int, ...]


class BaseLayers:
    """The shapes of the base model's linear layers, read from the safetensors files in `folder` when they are first
    needed.

    No layers are known, and every adapter fits, if there are no such files, or `folder` is only a name in a model hub.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._shapes: dict[str, set[Shape | None]] | None = None

    def why_unfit(self, adapter: str) -> str:
        """Returns why the adapter in the folder `adapter` does not fit the base model, as a text; empty if it fits, or
        if the adapter or the base model cannot be read. Reads only the headers of files.
        """
        try:
            tensors = _header(Path(adapter) / ADAPTER_WEIGHTS)
            if self._shapes is None:
                self._shapes = _layers_of(self._folder)
        except (OSError, ValueError):
            return ""  # the engine says what is wrong
        return next(filter(None, (self._why_unfit(name, tensor) for name, tensor in tensors.items())), "")

    def _why_unfit(self, name: str, tensor: Mapping[str, Any]) -> str:
        found = _LORA.fullmatch(name)
        key = _key(found["layer"]) if found else ""
        if not self._shapes or not found or not key:
            return ""
        shapes = self._shapes.get(key) or self._shapes.get(_experts_of(key))
        if shapes is None:
            return (
                f"the adapter changes {found['layer']}, and the base model has no such layer: is it of another model?"
            )
        end, axis = ("outputs", 0) if found["side"] == "B" else ("inputs", -1)
        size = tensor["shape"][axis] if tensor["shape"] else 0
        sizes = {shape[axis] for shape in shapes if shape}
        if None in shapes or size in sizes:
            return ""
        expected = " or ".join(map(str, sorted(sizes)))
        return f"the adapter's {found['layer']} has {size} {end}, the base model's {expected}: is it of another model?"


def _layers_of(folder: Path) -> dict[str, set[Shape | None]]:
    """Returns the shapes (outputs, inputs) of the layers in `folder`, by the end of their names (`_key`). A shape is
    None if it is unknown.

    Raises OSError if a file cannot be read, and ValueError if it is damaged or not yet complete.
    """
    shapes: dict[str, set[Shape | None]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        if file.name.startswith(UNREAD_PREFIXES):
            continue
        for name, tensor in _header(file).items():
            layer, _, parameter = name.rpartition(".")
            is_known = parameter == "weight" and tensor["dtype"] in _UNPACKED and len(tensor["shape"]) == 2
            shape = tuple(tensor["shape"]) if is_known else None
            for each in (layer, name):  # the weights of all experts may be one tensor without ".weight"
                if parameter != "bias" and (key := _key(each)):
                    shapes.setdefault(key, set()).add(shape)
                    if experts := _experts_of(key):
                        shapes.setdefault(experts, set()).add(None)
    return shapes


def _key(layer: str) -> str:
    """Returns the part of a layer's name from the first numbered component on, such as "layers.0.mlp.up_proj"; empty if
    no component is numbered.

    The part before it can differ between versions of the same model's files.
    """
    found = _NUMBERED.search(layer)
    return found[0] if found else ""


def _experts_of(key: str) -> str:
    """Returns the key of all experts of a layer, such as "layers.0.mlp.experts"; empty if `key` does not belong to an
    expert.

    An adapter may change all experts in one tensor although the base model has a tensor for each expert, or the other
    way round.
    """
    found = _EXPERTS.match(key)
    return found[0] if found else ""


def _header(file: Path) -> dict[str, Any]:
    """Reads the name, type and shape of each tensor in a safetensors file. Raises OSError if the file cannot be read,
    and ValueError if it is damaged.
    """
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if not 0 < length <= min(MAX_HEADER_BYTES, os.fstat(opened.fileno()).st_size):
            raise ValueError(f"{file} is no safetensors file")
        try:
            header = json.loads(opened.read(length))
        except RecursionError as error:
            raise ValueError(f"{file} is no safetensors file") from error
    if not isinstance(header, dict) or not all(map(_is_tensor, header.items())):
        raise ValueError(f"{file} is no safetensors file")
    header.pop("__metadata__", None)
    return header


def _is_tensor(entry: tuple[str, Any]) -> bool:
    name, value = entry
    if name == "__metadata__":
        return True
    shape = value.get("shape") if isinstance(value, dict) else None
    return isinstance(shape, list) and "dtype" in value
