"""The static table from the encoder, by the recipe of model2vec (https://github.com/MinishLab/model2vec)."""

import numpy as np
from numpy.typing import NDArray

from pointsman_embedding.minilm import MiniLM
from pointsman_embedding.static_model import DIMENSIONS

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
