"""What a safetensors file says of its tensors, and their values as numbers."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open


@dataclass(frozen=True, slots=True)
class TensorInfo:
    dtype: str  # "F32", "BF16", ...
    shape: tuple[int, ...]
    start: int  # bytes from the file's beginning
    end: int


def read_header(path: Path) -> Mapping[str, TensorInfo]:
    """Tensor name -> what it is. Raises ValueError where the file is damaged, OSError where it cannot be read.

    The library checks the file (offsets, overlaps, length); its numpy side cannot hand out bf16, hence the own reading.
    """
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length), object_pairs_hook=_each_once)
    header.pop("__metadata__", None)
    data = 8 + length
    return {
        name: TensorInfo(
            info["dtype"], tuple(info["shape"]), data + info["data_offsets"][0], data + info["data_offsets"][1]
        )
        for name, info in header.items()
    }


def map_bytes(path: Path) -> NDArray[np.uint8]:
    """The file as it lies on the disk, read where it is looked at."""
    return np.memmap(path, dtype=np.uint8, mode="r")


def is_readable(info: TensorInfo) -> bool:
    """Whether `values` knows its type: a float of 16 or 32 bits."""
    return info.dtype in READABLE


def values(data: NDArray[np.uint8], info: TensorInfo) -> NDArray[np.float32]:
    """The tensor in its shape; `data` is the whole file's."""
    return READABLE[info.dtype](data[info.start : info.end]).reshape(info.shape)


def _from_bf16(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """numpy knows no bf16: it is the upper half of a float32."""
    return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A name that stands twice is read as the first by one reader and as the last by another."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in its header")
    return found


READABLE: Mapping[str, Callable[[NDArray[np.uint8]], NDArray[np.float32]]] = {
    "F32": lambda raw: raw.view(np.float32),
    "F16": lambda raw: raw.view(np.float16).astype(np.float32),
    "BF16": _from_bf16,
}
