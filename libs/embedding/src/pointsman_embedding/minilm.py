"""The embedding model all-MiniLM-L6-v2, quantized to 8-bit integers, and the folder that it is loaded from."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pointsman_embedding.encoder import ModelMissing

DIMENSIONS = 384
MAX_TOKENS = 256  # the length that the model was trained on, including [CLS] and [SEP]

# Tokenizing takes time also for text that is then cut off; 32 characters a token is far above any language's mean.
MAX_CHARACTERS = MAX_TOKENS * 32
TOKENS_PER_JOB = 500

_ERRORS_ONLY = 3

GRAPH = "model.onnx"
TOKENIZER = "tokenizer.json"
MANIFEST = "manifest.json"
WORDS = "words.npy"
"""The file with a copy of MiniLM's word vectors, which are three quarters of its graph.

The file is memory-mapped, so that several processes share the memory. Folders of earlier versions do not have it.
"""
WORDS_IN_GRAPH = "embeddings.word_embeddings.weight"
FINGERPRINT_PREFIX = "minilm-l6-v2-int8"

# Increment it if the way of creating the files changes: existing folders are then created anew.
RECIPE = 2


class MiniLM:
    """The text embedding model all-MiniLM-L6-v2 in int8; implements Encoder."""

    dimensions: int = DIMENSIONS
    max_tokens: int = MAX_TOKENS
    query_prefix = passage_prefix = ""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        tokenizer: Tokenizer,
        fingerprint: str,
        constants: Mapping[str, onnxruntime.OrtValue] = {},
    ) -> None:
        """Use `load`, which makes the arguments from a folder.

        `tokenizer` must neither truncate nor pad. `constants` are values that the ONNX `session` uses and that must
        exist as long as the session.
        """
        self.fingerprint = fingerprint
        self._constants = constants
        self._session = session
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, folder: Path, threads: int = 1) -> "MiniLM":
        """Loads the folder that `pointsman_embedding.prepare` creates; one text is embedded by `threads` threads.

        Raises ModelMissing if the folder is incomplete, damaged or outdated.
        """
        fingerprint = check(folder)
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        words = _map_words(folder)
        session = open_session(folder / GRAPH, threads, ["SkipLayerNormFusion"], words)  # see BertGraph
        return cls(session, tokenizer, fingerprint, words)

    @property
    def tokenizer(self) -> Tokenizer:
        """Returns the tokenizer, to count a text's tokens; it neither truncates nor pads. Do not modify it."""
        return self._tokenizer

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeds n texts: returns an array (n, 384) of vectors of length 1.

        Of each text, only the first MAX_TOKENS tokens in the first MAX_CHARACTERS characters are read.
        """
        # Texts are run one at a time: in int8 all texts of a batch share a scale, so a vector would depend on the other
        # texts and on the padding (cosines down to 0.93 were measured), and on a CPU a batch is hardly faster.
        vectors = np.empty((len(texts), DIMENSIONS), np.float32)
        for row, text in enumerate(texts):
            vectors[row] = self._run(self._token_ids(text))[0]
        return vectors

    def embed_tokens(self) -> NDArray[np.float32]:
        """Embeds each token of the vocabulary as a text of its own, on all cores: an array (vocabulary, 384)."""
        begin, end = self._tokenizer.token_to_id("[CLS]"), self._tokenizer.token_to_id("[SEP]")
        size = self._tokenizer.get_vocab_size()

        def embed_range(start: int) -> NDArray[np.float32]:
            tokens = range(start, min(start + TOKENS_PER_JOB, size))
            return np.concatenate([self._run(np.array([[begin, token, end]], np.int32)) for token in tokens])

        with ThreadPoolExecutor(os.cpu_count()) as threads:  # a run uses one core and releases the GIL
            return np.concatenate(list(threads.map(embed_range, range(0, size, TOKENS_PER_JOB))))

    def _run(self, token_ids: NDArray[np.int32]) -> NDArray[np.float32]:
        return np.asarray(self._session.run(["embedding"], {"input_ids": token_ids})[0])

    def _token_ids(self, text: str) -> NDArray[np.int32]:
        ids = self._tokenizer.encode(text[:MAX_CHARACTERS]).ids
        if len(ids) > MAX_TOKENS:
            ids = [*ids[: MAX_TOKENS - 1], ids[-1]]
        return np.array([ids], np.int32)


def open_session(
    graph: Path | bytes,
    threads: int,
    disabled: Sequence[str] = (),
    constants: Mapping[str, onnxruntime.OrtValue] = {},
) -> onnxruntime.InferenceSession:
    """Opens the ONNX graph `graph`, a file or its content, for the CPU; one run uses `threads` threads.

    `disabled` names optimizers of ONNX Runtime that are not used. `constants` replace the constants of the graph with
    the same names; they must exist as long as the session.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A thread that spins while it waits would take the core from the event loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # It never returns memory, and grew by 7 MB for each long text that was embedded at the same time. It saves no time.
    options.enable_cpu_mem_arena = False
    for name, value in constants.items():
        options.add_initializer(name, value)
    return onnxruntime.InferenceSession(
        graph if isinstance(graph, bytes) else str(graph),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=list(disabled),
    )


def _map_words(folder: Path) -> dict[str, onnxruntime.OrtValue]:
    """Returns the word vectors as a constant for `open_session`, mapped from WORDS, so that processes share the memory.

    Returns an empty dict if there is no such file.
    """
    if not (folder / WORDS).exists():
        return {}
    return {WORDS_IN_GRAPH: onnxruntime.OrtValue.ortvalue_from_numpy(np.load(folder / WORDS, mmap_mode="r"))}


def fingerprint(folder: Path) -> str:
    """Returns the model's name, derived from the content of graph and tokenizer: equal names mean comparable vectors.

    Raises ModelMissing if the graph or the tokenizer is missing.
    """
    digest = hashlib.sha256()
    for name in (GRAPH, TOKENIZER):
        digest.update(_bytes_of(folder, name))
    return f"{FINGERPRINT_PREFIX}-{digest.hexdigest()[:12]}"


def write_manifest(folder: Path, words: Path) -> None:
    """Writes the manifest of a folder atomically: the hashes of its graph and tokenizer, and of the word vectors.

    `words` is the file of word vectors, which is renamed to WORDS afterwards. Raises ModelMissing if the graph or the
    tokenizer is missing.
    """
    manifest = {"recipe": RECIPE, "fingerprint": fingerprint(folder), "words": sha256(words)}
    temporary = folder / f".{MANIFEST}"
    temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    temporary.rename(folder / MANIFEST)


def check(folder: Path) -> str:
    """Returns the fingerprint of the folder's MiniLM.

    Raises ModelMissing if graph, tokenizer or manifest is missing, if a file was modified, or if the folder was made by
    a version of the code with another RECIPE. WORDS may be missing.
    """
    try:
        manifest = json.loads(_bytes_of(folder, MANIFEST))
    except ValueError as error:
        raise ModelMissing(folder, f"{MANIFEST} is not JSON") from error
    if not isinstance(manifest, dict) or manifest.get("recipe") != RECIPE:
        raise ModelMissing(folder, f"it was not made by recipe {RECIPE}, the one that this version reads")
    found = fingerprint(folder)
    if manifest.get("fingerprint") != found:
        raise ModelMissing(folder, f"its files are {found}, its {MANIFEST} says {manifest.get('fingerprint')}")
    listed = manifest.get("words")  # None: the file may have been added since the manifest was read
    if listed and (folder / WORDS).exists() and listed != sha256(folder / WORDS):
        raise ModelMissing(folder, f"{WORDS} is not the file that {MANIFEST} describes")
    return found


def sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _bytes_of(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelMissing(folder, f"{name} is not there" if folder.is_dir() else "there is no such folder") from error
