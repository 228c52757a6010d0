"""A second encoder, made from MiniLM: its hidden states projected on fewer dimensions, in the files of an exported
sentence-transformers model."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HIDDEN = "encoder.layer.5.output"
"""The output of MiniLM's last layer, of shape (texts, tokens, 384)."""
MODULES = [
    {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]


def make_second_encoder(
    folder: Path,
    minilm: Path,
    *,
    dimensions: int = 128,
    pooling: str = "pooling_mode_mean_tokens",
    max_tokens: int = 128,
    scores: bool = False,
    prompts: dict[str, str] | None = None,
) -> Path:
    """Writes the encoder's folder. Its graph wants int64 ids, a mask and token types, as exported ones do.

    With `scores` the graph is no encoder: its output is a score of each token.
    """
    (folder / "1_Pooling").mkdir(parents=True)
    onnx.save(_graph(minilm / "model.onnx", dimensions, scores), folder / "model.onnx")
    shutil.copyfile(minilm / "tokenizer.json", folder / "tokenizer.json")
    _write(folder / "modules.json", MODULES)
    _write(folder / "1_Pooling/config.json", {"word_embedding_dimension": dimensions, pooling: True})
    _write(folder / "sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False})
    _write(folder / "config_sentence_transformers.json", {"prompts": prompts or {}})
    return folder


def _graph(source: Path, dimensions: int, scores: bool) -> onnx.ModelProto:
    model = onnx.load(source)
    graph = model.graph
    kept = [node for node in graph.node if node.output[0] not in ("sum", "embedding")]
    projection = np.linalg.qr(np.random.default_rng(7).standard_normal((384, 384)))[0][:, :dimensions]
    graph.initializer.append(numpy_helper.from_array(projection.astype(np.float32), "projection"))
    cast = helper.make_node("Cast", ["input_ids"], ["input_ids_32"], to=TensorProto.INT32)
    vectors = helper.make_node("MatMul", [HIDDEN, "projection"], ["last_hidden_state"])
    score = helper.make_node("ReduceMax", ["last_hidden_state"], ["scores"], axes=[2], keepdims=0)
    for node in kept:
        node.input[:] = ["input_ids_32" if name == "input_ids" else name for name in node.input]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend([cast, *kept, vectors, *([score] if scores else [])])
    texts: list[str | int | None] = ["texts", "tokens"]
    names = ("input_ids", "attention_mask", "token_type_ids")
    graph.input.extend(helper.make_tensor_value_info(name, TensorProto.INT64, texts) for name in names)
    name, shape = ("scores", texts) if scores else ("last_hidden_state", [*texts, dimensions])
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return model


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")
