"""Compares an adapter's layers with those of the base model, since vLLM loads adapters of other models as well.

It ignores layers that the base model does not have, and computes with the part of a weight that is there.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ADAPTER_WEIGHTS = "adapter_model.safetensors"
MAX_HEADER_BYTES = 100 << 20
"""The limit of the safetensors format."""
UNREAD_PREFIXES = ("consolidated", "model-rank-", "adapter_")
"""Files in which the layers have other names than in adapters, those of Mistral's own format and of vLLM's format
sharded_state, and files of adapters."""
_EXPERTS = re.compile(r".+\.experts(?=\.|$)")
_LORA = re.compile(r"(?:base_model\.model\.)?(?P<layer>.+)\.lora_(?P<side>[AB])\.weight")
_NUMBERED = re.compile(r"[^.]+\.\d+\..+")
_UNPACKED = ("F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
"""The number types in which a weight has the shape of its layer; quantized ones are packed."""

Shape = tuple[int, ...]


class BaseLayers:
    """The linear layers of the base model in `folder`, read when they are first needed.

    Nothing is known of a model without safetensors files, and of a folder that is only a name in a model hub.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._shapes: dict[str, set[Shape | None]] | None = None

    def why_unfit(self, adapter: str) -> str:
        """Returns why the adapter in this folder does not fit the base model; empty if it does, or if one of both
        cannot be read. Reads the headers of files.
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
    """Returns the shapes, (outputs, inputs), of the layers by the end of their names (`_key`); None if unknown.

    Raises OSError, and ValueError if a file is damaged or not yet complete.
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
    """Returns the name from the first numbered part on, as "layers.0.mlp.up_proj"; empty if nothing is numbered.

    What is before it differs between versions of one model's files.
    """
    found = _NUMBERED.search(layer)
    return found[0] if found else ""


def _experts_of(key: str) -> str:
    """Returns the key of all experts of the layer, such as "layers.0.mlp.experts"; empty if it is not of an expert.

    An adapter may change all of them at once although the base model has one tensor for each, or the other way round.
    """
    found = _EXPERTS.match(key)
    return found[0] if found else ""


def _header(file: Path) -> dict[str, Any]:
    """Reads the names, types and shapes of a safetensors file's tensors. Raises OSError, and ValueError if damaged."""
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
