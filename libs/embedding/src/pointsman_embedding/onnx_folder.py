"""Loads any sentence encoder from a folder in the layout of sentence-transformers that has an ONNX file.

The folder's files determine the pooling and the maximum length. Vectors always get length 1, because the classifier and
the retriever compare them by their cosine.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pointsman_embedding.encoder import EncoderConfig, unusable
from pointsman_embedding.minilm import TOKENIZER, open_session

DEFAULT_MAX_TOKENS = 512
"""The maximum number of tokens of a text if the folder's files state none."""
MAX_LENGTH = 1_000_000
"""A stated maximum of this many tokens or more is ignored: some tokenizers state a huge number if they have no limit.
"""
CHARACTERS_PER_TOKEN = 32
"""A text is cut at this many characters for each allowed token before it is tokenized, to save time.

In no language is the average token as long as this.
"""

Array = NDArray[np.float32]

POOLINGS: Mapping[str, Callable[[Array], Array]] = {
    "mean": lambda tokens: tokens.mean(axis=0),
    "cls": lambda tokens: tokens[0],
    "max": lambda tokens: tokens.max(axis=0),
    "lasttoken": lambda tokens: tokens[-1],
}
"""Name of a pooling -> function that computes a text's vector from the vectors of its tokens, (tokens, dimensions).
There is no padding among the tokens."""

_INPUTS: Mapping[str, Callable[[int], Any]] = {
    "attention_mask": lambda count: np.ones((1, count)),
    "token_type_ids": lambda count: np.zeros((1, count)),
    "position_ids": lambda count: np.arange(count)[None],
}
"""The inputs that a graph may have in addition to the token ids, as functions of the number of tokens."""
_TYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
_OUTPUTS = ("sentence_embedding", "embedding", "last_hidden_state", "token_embeddings")
"""The usual names of the output with the vectors, in order of preference; without them, the first output of floats is
used."""
_FLOATS = ("tensor(float)", "tensor(float16)")


class OnnxEncoder:
    """A text embedding model that runs the ONNX graph in a folder; implements Encoder."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        tokenizer: Tokenizer,
        layout: "Layout",
        prefixes: tuple[str, str],
        fingerprint: str,
    ) -> None:
        """Use `load`, which makes the arguments from a folder. `prefixes` are the texts to put before queries and
        before passages.

        The attribute `dimensions` is 0 until `load` has set it.
        """
        self.fingerprint, self.max_tokens = fingerprint, layout.max_tokens
        self.query_prefix, self.passage_prefix = prefixes
        self._session, self._tokenizer, self._pool = session, tokenizer, POOLINGS[layout.pooling]
        self._types = {node.name: _TYPES.get(node.type) for node in session.get_inputs()}
        self._output = layout.output
        self.dimensions = 0

    @classmethod
    def load(cls, config: EncoderConfig, threads: int = 1) -> "OnnxEncoder":
        """Loads the configured folder, and embeds two test texts to learn the dimensions of the vectors.

        One text is embedded by `threads` threads. Raises FailedPrecondition if the folder is not usable as an encoder.
        """
        folder = config.folder
        assert folder is not None
        if not folder.is_dir():
            raise unusable(f"embedding.folder: there is no folder {folder}")
        graph = _find_graph(folder)
        session, tokenizer = _open(folder, graph, threads)
        layout = Layout(folder, session)
        prompts = _read(folder, "config_sentence_transformers.json").get("prompts") or {}
        query = config.query_prefix if config.query_prefix is not None else prompts.get("query")
        named = prompts.get("document") or prompts.get("passage")
        passage = config.passage_prefix if config.passage_prefix is not None else named
        prefixes = (query or "", passage or "")
        name = _fingerprint(folder, graph, [layout.pooling, layout.max_tokens, layout.output, *prefixes])
        encoder = cls(session, tokenizer, layout, prefixes, name)
        encoder._try(graph)
        return encoder

    @property
    def tokenizer(self) -> Tokenizer:
        """Returns the tokenizer, to count a text's tokens; it neither truncates nor pads. Do not modify it."""
        return self._tokenizer

    def embed(self, texts: Sequence[str]) -> Array:
        """Embeds n texts: returns an array (n, dimensions) of vectors of length 1.

        The end of a text after `max_tokens` tokens, or after CHARACTERS_PER_TOKEN times as many characters, is ignored.
        """
        # Texts are run one at a time: in an int8 model a vector would otherwise depend on the other texts.
        return np.stack([self._embed(text) for text in texts]) if texts else np.empty((0, self.dimensions), np.float32)

    def _embed(self, text: str) -> Array:
        (found,) = self._session.run([self._output], self._inputs(self._token_ids(text)))
        vector = found[0] if found.ndim == 2 else self._pool(found[0])
        return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), np.float32)

    def _token_ids(self, text: str) -> list[int]:
        encoding = self._tokenizer.encode(text[: self.max_tokens * CHARACTERS_PER_TOKEN])
        ids: list[int] = encoding.ids
        if len(ids) <= self.max_tokens:
            return ids
        specials = next((n for n, special in enumerate(reversed(encoding.special_tokens_mask)) if not special), 0)
        return ids[: self.max_tokens - specials] + ids[len(ids) - specials :]

    def _inputs(self, ids: list[int]) -> dict[str, NDArray[Any]]:
        values = {"input_ids": np.array([ids]), **{name: make(len(ids)) for name, make in _INPUTS.items()}}
        return {name: values[name].astype(kind) for name, kind in self._types.items()}

    def _try(self, graph: Path) -> None:
        """Embeds two texts of different lengths, and sets `dimensions`.

        Raises FailedPrecondition if the graph has unknown inputs, does not run, or its vectors have different
        dimensions.
        """
        known = ("input_ids", *_INPUTS)
        unknown = [name for name, kind in self._types.items() if kind is None or name not in known]
        if unknown:
            raise unusable(f"{graph} has the input '{unknown[0]}'; an encoder's are integers: {', '.join(known)}")
        try:
            shapes = [self._embed(text).shape for text in ("A short text", "A text that is a little longer than that")]
        except Exception as error:  # ONNX Runtime's errors have no common class
            raise unusable(f"{graph} does not run on its tokenizer's tokens: {error}") from error
        if len(shapes[0]) != 1 or shapes[0] != shapes[1]:
            raise unusable(
                f"the output '{self._output}' of {graph} gives texts vectors of different shapes, {shapes[0]} and "
                f"{shapes[1]}; an encoder's output is (texts, dimensions) or (texts, tokens, dimensions)"
            )
        (self.dimensions,) = shapes[0]


class Layout:
    """How to use an encoder's graph: the name of its output, the pooling, and the maximum number of tokens."""

    def __init__(self, folder: Path, session: onnxruntime.InferenceSession) -> None:
        """Reads the files in `folder`, and the outputs of the `session` with its graph.

        Raises FailedPrecondition if a file is invalid, or the graph cannot be used as an encoder.
        """
        outputs = {node.name: node for node in session.get_outputs() if node.type in _FLOATS}
        if not outputs:
            raise unusable(f"the ONNX file in {folder} has no output of floats; an encoder's are vectors")
        self.output = next((name for name in _OUTPUTS if name in outputs), next(iter(outputs)))
        rank = len(outputs[self.output].shape)
        if rank not in (2, 3):
            raise unusable(
                f"the output '{self.output}' in {folder} has {rank} axes; an encoder's is (texts, dimensions) or "
                "(texts, tokens, dimensions)"
            )
        self.pooling = _pooling(folder) if rank == 3 else "mean"
        self.max_tokens = _max_tokens(folder)


def _pooling(folder: Path) -> str:
    """Returns the key of POOLINGS that the folder's files name; "mean" if they name none.

    Raises FailedPrecondition if the files name several poolings or an unknown one, or a module other than Transformer,
    Pooling and Normalize.
    """
    modules = {str(module.get("type")).rpartition(".")[2]: module for module in _read(folder, "modules.json", list)}
    further = modules.keys() - {"Transformer", "Pooling", "Normalize"}
    if further:
        raise unusable(
            f"{folder / 'modules.json'} has the module '{min(further)}', which the ONNX file does not contain; export "
            "one with the output sentence_embedding"
        )
    settings = _read(folder, f"{modules.get('Pooling', {}).get('path', '1_Pooling')}/config.json")
    prefix = "pooling_mode_"
    modes = [
        name.removeprefix(prefix).removesuffix("_tokens").removesuffix("_token")
        for name, on in settings.items()
        if on is True and name.startswith(prefix)
    ]
    found = modes or [settings.get("pooling_mode", "mean")]
    if len(found) > 1 or found[0] not in POOLINGS:
        raise unusable(f"the pooling in {folder} is {' and '.join(map(str, found))}; known: {', '.join(POOLINGS)}")
    return str(found[0])


def _max_tokens(folder: Path) -> int:
    stated = (
        _read(folder, "sentence_bert_config.json").get("max_seq_length"),
        _read(folder, "tokenizer_config.json").get("model_max_length"),
        (_read(folder, TOKENIZER).get("truncation") or {}).get("max_length"),
    )
    return next((int(n) for n in stated if isinstance(n, int | float) and 2 < n < MAX_LENGTH), DEFAULT_MAX_TOKENS)


def _find_graph(folder: Path) -> Path:
    for graph in (folder / "model.onnx", folder / "onnx" / "model.onnx"):
        if graph.is_file():
            return graph
    found = sorted([*folder.glob("*.onnx"), *folder.glob("onnx/*.onnx")])
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(str(graph.relative_to(folder)) for graph in found)
        raise unusable(f"{folder} has {names}; name the one to use model.onnx")
    raise unusable(
        f"{folder} has no ONNX file (model.onnx or onnx/model.onnx); make one: "
        f"optimum-cli export onnx --model NAME {folder}"
    )


def _open(folder: Path, graph: Path, threads: int) -> tuple[onnxruntime.InferenceSession, Tokenizer]:
    file = folder / TOKENIZER
    if not file.is_file():
        raise unusable(f"{folder} has no {TOKENIZER}, the file of a fast tokenizer (AutoTokenizer's save_pretrained)")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # its errors have no class of their own
        raise unusable(f"{file} is not a tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    try:
        return open_session(graph, threads), tokenizer
    except Exception as error:  # ONNX Runtime's errors have no common class
        raise unusable(f"{graph} cannot be loaded: {error}") from error


def _read(folder: Path, name: str, kind: type = dict) -> Any:
    """Returns the content of a JSON file, an empty `kind` if there is no such file.

    Raises FailedPrecondition if the file is not JSON, or its content is not of class `kind`.
    """
    file = folder / name
    try:
        content = json.loads(file.read_bytes()) if file.is_file() else kind()
    except ValueError as error:
        raise unusable(f"{file} is not JSON: {error}") from error
    if not isinstance(content, kind):
        raise unusable(f"{file} should hold a JSON {'object' if kind is dict else 'array'}")
    return content


def _fingerprint(folder: Path, graph: Path, settings: Sequence[object]) -> str:
    """Returns the model's name, derived from the content of graph, weights and tokenizer, and from `settings`."""
    digest = hashlib.sha256(json.dumps(settings).encode())
    for file in (
        *sorted(graph.parent.glob(f"{graph.name}*")),
        folder / TOKENIZER,
    ):  # weights may be in a file beside it
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return f"onnx-{digest.hexdigest()[:12]}"
