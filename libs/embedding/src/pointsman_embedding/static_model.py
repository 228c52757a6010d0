"""A static embedding model: it has one vector for each token of MiniLM.

The vector of a text is the sum of the vectors of its tokens, normalized to length 1.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pointsman_embedding import minilm
from pointsman_embedding.encoder import ModelMissing
from pointsman_embedding.minilm import MiniLM

DIMENSIONS = 256
TABLE = "static.npy"
MANIFEST = "static.json"
FINGERPRINT_PREFIX = "static-256"

# Increment it if the way of creating the table changes: existing tables are then created anew.
RECIPE = 1

# Arora et al., "A Simple but Tough-to-Beat Baseline for Sentence Embeddings" (2017): frequent tokens are weighted less.
SMOOTHING = 1e-3


class StaticModel:
    """A table with a vector for each token of MiniLM; one instance may be shared between threads."""

    dimensions: int = DIMENSIONS

    def __init__(self, table: NDArray[np.float16], tokenizer: Tokenizer, fingerprint: str) -> None:
        """Use `load`, which makes the arguments from a folder; `tokenizer` must neither truncate nor pad."""
        self.fingerprint = fingerprint
        self._table = table
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, folder: Path, of_encoder: str | None = None) -> "StaticModel":
        """Loads the folder that `pointsman_embedding.prepare` creates.

        `of_encoder` is the fingerprint of the MiniLM in this folder, if the caller has loaded it. If it is None, the
        files of MiniLM are hashed here. Raises ModelMissing if the folder is incomplete, damaged or outdated.
        """
        fingerprint = check(folder, of_encoder)
        tokenizer = Tokenizer.from_file(str(folder / minilm.TOKENIZER))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # Memory-mapped: a service uses only the rows of the words that occur.
        table = np.load(folder / TABLE, mmap_mode="r", allow_pickle=False)
        return cls(table, tokenizer, fingerprint)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeds n texts: returns an array (n, 256) of vectors of length 1. A text without a known token gets a vector
        of zeros.
        """
        sums = np.array([self.sum_of(text) for text in texts], np.float32).reshape(-1, DIMENSIONS)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        return np.asarray(sums / np.where(lengths > 0, lengths, 1), np.float32)

    def sum_of(self, text: str) -> NDArray[np.float32]:
        """Returns the sum of the vectors of the text's tokens, an array (256,) that is not normalized.

        Since sums can be added, the sum of a text equals the sum over its words.
        """
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return np.asarray(self._table[ids].sum(axis=0, dtype=np.float32))

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Returns the start and the end (exclusive) of each token of the text, in characters."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).offsets)

    def knows(self, word: str) -> bool:
        """Returns whether a lower-case word is a single token, as the 20,000 most frequent English words are."""
        return self._tokenizer.token_to_id(word) is not None


def fingerprint(of_encoder: str) -> str:
    """Returns the name of a table of token vectors, derived from the fingerprint of the encoder that it is made from,
    and from RECIPE.

    The name does not depend on the table's bits: another CPU rounds the encoder's int8 products differently, and the
    vectors can still be compared.
    """
    return f"{FINGERPRINT_PREFIX}-{hashlib.sha256(f'{of_encoder} {RECIPE}'.encode()).hexdigest()[:12]}"


def write(folder: Path, table: NDArray[np.float16]) -> None:
    """Writes the table of token vectors into the folder of MiniLM, then the table's manifest.

    Raises ModelMissing if the folder has no complete MiniLM; then the table was written, but not the manifest.
    """
    temporary = folder / f".{TABLE}"
    with temporary.open("wb") as file:
        np.save(file, table, allow_pickle=False)
    temporary.rename(folder / TABLE)
    manifest = {
        "recipe": RECIPE,
        "fingerprint": fingerprint(minilm.check(folder)),
        "sha256": minilm.sha256(folder / TABLE),
    }
    temporary = folder / f".{MANIFEST}"
    temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    temporary.rename(folder / MANIFEST)


def check(folder: Path, of_encoder: str | None = None) -> str:
    """Returns the fingerprint of the folder's table.

    `of_encoder` is the fingerprint of the MiniLM in the folder, if the caller knows it; if it is None, MiniLM's files
    are hashed. Raises ModelMissing if the table is missing, was modified, or was not made from this folder's MiniLM by
    RECIPE.
    """
    expected = fingerprint(of_encoder or minilm.check(folder))
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        found = minilm.sha256(folder / TABLE)
    except FileNotFoundError as error:
        raise ModelMissing(folder, f"{Path(error.filename).name} is not there") from error
    except ValueError as error:
        raise ModelMissing(folder, f"{MANIFEST} is not JSON") from error
    if not isinstance(manifest, dict) or manifest.get("fingerprint") != expected:
        raise ModelMissing(folder, f"{TABLE} was not made from this encoder by recipe {RECIPE}")
    if manifest.get("sha256") != found:
        raise ModelMissing(folder, f"{TABLE} is not the file that {MANIFEST} describes")
    return expected


def distil(encoder: MiniLM) -> NDArray[np.float16]:
    """Makes the table of token vectors, an array (vocabulary, 256), by the method of model2vec.

    Each token is embedded by the encoder, projected on the 256 principal components, and weighted by rarity
    (https://github.com/MinishLab/model2vec). Tokens in brackets ([UNK], [PAD], [unused7], ...) get zeros. Takes 11 s on
    one core.
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
    # The sign of an axis is arbitrary. Its largest component is made positive, so that every build gets the same.
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(DIMENSIONS)]
    return np.asarray(axes * np.sign(largest))


def _rarity(size: int) -> NDArray[np.float64]:
    """Returns the weight of each token of a vocabulary of `size` tokens: rare tokens weigh more.

    The tokens are roughly in order of frequency, and the frequency is assumed to fall by Zipf's law.
    """
    share = 1 / np.arange(2, size + 2)
    share /= share.sum()
    return np.asarray(SMOOTHING / (SMOOTHING + share))


def _is_marker(token: str) -> bool:
    return token.startswith("[") and token.endswith("]") and len(token) > 2
