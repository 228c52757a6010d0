"""Text to vector without a network: one row for each of MiniLM's tokens, and a text is the sum of its rows."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pointsman_embedding import minilm
from pointsman_embedding.minilm import MiniLM

DIMENSIONS = 256
TABLE = "static.npy"
MANIFEST = "static.json"
FINGERPRINT_PREFIX = "static-256"

# Raise it when the way of making the table changes: tables made in the old way are then made again.
RECIPE = 1


class StaticModel:
    """Safe to share between threads."""

    dimensions: int = DIMENSIONS

    def __init__(self, table: NDArray[np.float16], tokenizer: Tokenizer, fingerprint: str) -> None:
        """See `load`; `tokenizer` must neither truncate nor pad."""
        self.fingerprint = fingerprint
        self._table = table
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, folder: Path) -> "StaticModel":
        """Reads what `pointsman_embedding.prepare` made; raises ModelMissing."""
        fingerprint = check(folder)
        tokenizer = Tokenizer.from_file(str(folder / minilm.TOKENIZER))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # Mapped, not read: of 30,522 rows a service touches those of the words that it meets.
        table = np.load(folder / TABLE, mmap_mode="r", allow_pickle=False)
        return cls(table, tokenizer, fingerprint)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, 256), each of length one; zeros for a text of which no token is known."""
        sums = np.array([self.sum_of(text) for text in texts], np.float32).reshape(-1, DIMENSIONS)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        return np.asarray(sums / np.where(lengths > 0, lengths, 1), np.float32)

    def sum_of(self, text: str) -> NDArray[np.float32]:
        """(256,): the sum of the rows of the text's tokens; the sum over its words is the sum of the text."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return np.asarray(self._table[ids].sum(axis=0, dtype=np.float32))

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where each token begins and ends, in characters."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).offsets)


def fingerprint(of_encoder: str) -> str:
    """Names the table by what it is made from.

    Not by its bits: another CPU rounds the encoder's int8 products in another way, and the vectors still compare.
    """
    return f"{FINGERPRINT_PREFIX}-{hashlib.sha256(f'{of_encoder} {RECIPE}'.encode()).hexdigest()[:12]}"


def write(folder: Path, table: NDArray[np.float16]) -> None:
    """Adds the table to a complete folder; its manifest is written last."""
    temporary = folder / f".{TABLE}"
    with temporary.open("wb") as file:
        np.save(file, table, allow_pickle=False)
    temporary.rename(folder / TABLE)
    manifest = {
        "recipe": RECIPE,
        "fingerprint": fingerprint(minilm.check(folder)),
        "sha256": _sha256(folder / TABLE),
    }
    temporary = folder / f".{MANIFEST}"
    temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    temporary.rename(folder / MANIFEST)


def check(folder: Path) -> str:
    """The fingerprint of a table that is there, unchanged and made from this folder's encoder; else ModelMissing."""
    expected = fingerprint(minilm.check(folder))
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        found = _sha256(folder / TABLE)
    except FileNotFoundError as error:
        raise minilm.ModelMissing(folder, f"{Path(error.filename).name} is not there") from error
    except ValueError as error:
        raise minilm.ModelMissing(folder, f"{MANIFEST} is not JSON") from error
    if not isinstance(manifest, dict) or manifest.get("fingerprint") != expected:
        raise minilm.ModelMissing(folder, f"{TABLE} was not made from this encoder by recipe {RECIPE}")
    if manifest.get("sha256") != found:
        raise minilm.ModelMissing(folder, f"{TABLE} is not the file that {MANIFEST} describes")
    return expected


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


# Arora et al., "A Simple but Tough-to-Beat Baseline for Sentence Embeddings" (2017): a frequent token says less.
SMOOTHING = 1e-3


def distil(encoder: MiniLM) -> NDArray[np.float16]:
    """(vocabulary, 256): each token through the encoder, its principal components, less weight for frequent ones.

    Tokens that stand for nothing ([UNK], [PAD], [unused7], ...) get zeros. 11 s on one core.
    """
    vectors = encoder.embed_tokens().astype(np.float64)
    vectors -= vectors.mean(axis=0)
    table = vectors @ _principal_axes(vectors) * _rarity(len(vectors))[:, None]
    vocabulary = encoder.tokenizer.get_vocab()
    table[[index for token, index in vocabulary.items() if _is_marker(token)]] = 0
    return table.astype(np.float16)


def _principal_axes(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    _, axes = np.linalg.eigh(vectors.T @ vectors)
    axes = axes[:, ::-1][:, :DIMENSIONS]
    # An axis may point either way; the largest component decides, so that the next build decides alike.
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(DIMENSIONS)]
    return np.asarray(axes * np.sign(largest))


def _rarity(size: int) -> NDArray[np.float64]:
    """The vocabulary is ordered by frequency, nearly; by Zipf's law a token's share falls with its rank."""
    share = 1 / np.arange(2, size + 2)
    share /= share.sum()
    return np.asarray(SMOOTHING / (SMOOTHING + share))


def _is_marker(token: str) -> bool:
    return token.startswith("[") and token.endswith("]") and len(token) > 2
