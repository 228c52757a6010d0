"""The encoder as an ONNX graph, written node by node from its weights, so that no deep-learning framework is needed.

It uses ONNX Runtime's fused operators (domain com.microsoft): an unfused int8 graph is as slow as fp32.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

LAYERS = 6
HEADS = 12
DIMENSIONS = 384
LAYER_NORM_EPSILON = 1e-12
OPSET = 17
IR_VERSION = 8
FUSED = "com.microsoft"

Weights = Mapping[str, NDArray[np.float32]]


class BertGraph:
    """Collects nodes and initialisers while the graph is written from the input to the output."""

    def __init__(self, weights: Weights) -> None:
        """`weights` has the names of Hugging Face's BertModel; a missing one is a KeyError."""
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._initialisers: dict[str, onnx.TensorProto] = {}

    def build(self) -> onnx.ModelProto:
        """`input_ids`, int32 (texts, tokens) without padding, to `embedding`, float32 (texts, 384) of length one."""
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
        # Every token is of type 0 here, so that type's row is added to each position once and for all.
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
        # Its schema calls the second output optional, its type inference does not.
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
        # PyTorch keeps (out, in); MatMul wants (in, out).
        weight = self._constant(f"{prefix}.weight", self._weights[f"{prefix}.weight"].T)
        return self._node("MatMul", [value, weight], f"{prefix}.product")

    def _dense_then_norm(self, value: str, skip: str, prefix: str) -> str:
        # Not the fused SkipLayerNormalization: on a CPU it takes six times as long as its parts.
        product = self._dense(value, f"{prefix}.dense")
        biased = self._node("Add", [product, self._weight(f"{prefix}.dense.bias")], f"{prefix}.biased")
        inputs = [
            self._node("Add", [biased, skip], f"{prefix}.skipped"),
            self._weight(f"{prefix}.LayerNorm.weight"),
            self._weight(f"{prefix}.LayerNorm.bias"),
        ]
        return self._node("LayerNormalization", inputs, prefix, axis=-1, epsilon=LAYER_NORM_EPSILON)

    def _mean_of_length_one(self, hidden: str) -> None:
        # Without padding every token counts; the sum points where the mean does, and the length is made one anyway.
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
    """Writes the int8 graph to `target`; matrix products only.

    Per channel, since one scale for a whole matrix costs 5 % of the cosine to fp32. `model` is marked as prepared.
    """
    # The graph is written fused, so the quantiser need not ask, through the root logger, for it to be optimised first.
    helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    quantize_dynamic(
        model,
        target,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        # Type inference stops at fused operators; everything between them is float here.
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )
