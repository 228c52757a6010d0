"""fp32 graph to int8: weights per output channel, activations as they come."""

from pathlib import Path

from onnx import TensorProto
from onnxruntime.quantization import QuantType, quantize_dynamic


def to_int8(source: Path, target: Path) -> None:
    """Per channel, since one scale for a whole matrix costs 5 % of the cosine to fp32; matrix products only."""
    quantize_dynamic(
        source,
        target,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        # Type inference stops at fused operators; everything between them is float here.
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )
