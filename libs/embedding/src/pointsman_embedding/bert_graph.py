"""Builds the ONNX graph of an encoder with BERT's architecture from its weights, without a deep-learning framework.

The graph uses ONNX Runtime's fused operators (domain com.microsoft): without them, an int8 graph is as slow as fp32.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

LAYERS = 6
HEADS = 12
DIMENSIONS = 384
LAYER_NORM_EPSILON = 1e-12
OPSET = 17
IR_VERSION = 8
FUSED = "com.microsoft"

Weights = Mapping[str, NDArray[np.float32]]


class BertGraph:
    """Builds the ONNX graph of a BERT encoder, from the token ids of texts to the texts' vectors."""

    name = "minilm"

    def __init__(self, weights: Weights, layers: int = LAYERS) -> None:
        """Takes the weights, by their names in Hugging Face's BertModel, and the number of `layers` to build."""
        self._weights, self._layers = weights, layers
        self._nodes: list[onnx.NodeProto] = []
        self._initialisers: dict[str, onnx.TensorProto] = {}

    def build(self) -> onnx.ModelProto:
        """Builds the graph. Raises KeyError if a weight is missing.

        The graph's input `input_ids` is int32 (texts, tokens); all texts must have equally many tokens, since there is
        no padding. Its output `embedding` is float32 (texts, 384), a vector of length 1 for each text.
        """
        hidden = self._embeddings()
        for number in range(self._layers):
            hidden = self._layer(hidden, f"encoder.layer.{number}")
        self._mean_of_length_one(hidden)
        graph = helper.make_graph(
            self._nodes,
            self.name,
            [self._input()],
            [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["texts", DIMENSIONS])],
            list(self._initialisers.values()),
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(FUSED, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="pointsman")

    def _input(self) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info("input_ids", TensorProto.INT32, ["texts", "tokens"])

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
