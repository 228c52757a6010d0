"""What a safetensors file says of its tensors, without reading them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    data = 8 + length
    return {
        name: TensorInfo(
            info["dtype"], tuple(info["shape"]), data + info["data_offsets"][0], data + info["data_offsets"][1]
        )
        for name, info in header.items()
    }
