"""The guard's comparison of an adapter's layers with those of the base model."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from pointsman_lora_server.engine.guard.pointsman_engine_guard.base_fit import BaseLayers
from safetensors.numpy import save_file

LAYER = "model.layers.0.self_attn.q_proj"
OUTPUTS, INPUTS, RANK = 6, 4, 2


def write(file: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str = "float16") -> str:
    """Writes tensors of zeros; returns the path of their folder."""
    file.parent.mkdir(exist_ok=True)
    save_file({name: np.zeros(shape, dtype) for name, shape in shapes.items()}, file)
    return str(file.parent)


def adapter(folder: Path, layer: str = LAYER, inputs: int = INPUTS, outputs: int = OUTPUTS) -> str:
    start = f"base_model.model.{layer}"
    shapes = {f"{start}.lora_A.weight": (RANK, inputs), f"{start}.lora_B.weight": (outputs, RANK)}
    return write(folder / "adapter/adapter_model.safetensors", shapes)


@pytest.fixture
def base(tmp_path: Path) -> BaseLayers:
    shapes = {f"{LAYER}.weight": (OUTPUTS, INPUTS), f"{LAYER}.bias": (OUTPUTS,), "model.norm.weight": (INPUTS,)}
    return BaseLayers(write(tmp_path / "base/model.safetensors", shapes))


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (
            {"layer": "model.strata.0.self_attn.q_proj"},
            "model.strata.0.self_attn.q_proj, and the base model has no such",
        ),
        ({"layer": "model.layers.1.self_attn.q_proj"}, "the base model has no such layer"),
        ({"inputs": 2}, "has 2 inputs, the base model's 4"),
        ({"outputs": 3}, "has 3 outputs, the base model's 6"),
    ],
)
def test_an_adapter_of_another_model_is_unfit(
    base: BaseLayers, tmp_path: Path, other: dict[str, str | int], reason: str
) -> None:
    assert reason in base.why_unfit(adapter(tmp_path, **other))  # type: ignore[arg-type]


@pytest.mark.parametrize("layer", [LAYER, "model.language_model.layers.0.self_attn.q_proj", "lm_head"])
def test_an_adapter_of_the_model_fits_whatever_is_before_its_numbered_layers(
    base: BaseLayers, tmp_path: Path, layer: str
) -> None:
    assert base.why_unfit(adapter(tmp_path, layer)) == ""


def test_the_shape_of_a_quantized_layer_is_not_compared(tmp_path: Path) -> None:
    packed = {f"{LAYER}.qweight": (1, 3), f"{LAYER}.scales": (1, 6), f"{LAYER}.g_idx": ()}
    base = BaseLayers(write(tmp_path / "base/model.safetensors", packed, "int32"))
    assert base.why_unfit(adapter(tmp_path)) == ""
    assert "no such layer" in base.why_unfit(adapter(tmp_path, "model.layers.7.mlp.up_proj"))


def test_nothing_is_said_about_what_cannot_be_read(base: BaseLayers, tmp_path: Path) -> None:
    of_hub = BaseLayers("some/model")
    assert of_hub.why_unfit(adapter(tmp_path, "strata.0.x")) == ""
    mistral = write(tmp_path / "mistral/consolidated.safetensors", {"layers.0.attention.wq.weight": (6, 4)})
    assert BaseLayers(mistral).why_unfit(adapter(tmp_path)) == ""
    broken = tmp_path / "broken"
    broken.mkdir()
    for content in (b"", b"\xff" * 20, b"\x02" + b"\0" * 7 + b"[]"):
        (broken / "adapter_model.safetensors").write_bytes(content)
        assert base.why_unfit(str(broken)) == ""
    assert base.why_unfit(str(tmp_path / "nothing")) == ""


def test_adapters_of_fused_experts_fit(tmp_path: Path) -> None:
    experts = "model.layers.0.mlp.experts"
    shapes = {f"{LAYER}.weight": (OUTPUTS, INPUTS), f"{experts}.gate_up_proj_blocks": (2, 3, 4)}
    base = BaseLayers(write(tmp_path / "base/model.safetensors", shapes))
    for layer in (experts, f"{experts}.base_layer"):  # in PEFT's form, which vLLM reads
        assert base.why_unfit(adapter(tmp_path, layer)) == ""
    assert "no such layer" in base.why_unfit(adapter(tmp_path, "model.layers.1.mlp.experts.base_layer"))


def test_adapters_fit_whether_each_expert_has_a_tensor_or_not(tmp_path: Path) -> None:
    each = {f"model.layers.0.mlp.experts.{number}.up_proj.weight": (OUTPUTS, INPUTS) for number in range(2)}
    base = BaseLayers(write(tmp_path / "each/model.safetensors", each))
    assert base.why_unfit(adapter(tmp_path, "model.layers.0.mlp.experts.base_layer")) == ""
    assert "has 9 inputs" in base.why_unfit(adapter(tmp_path, "model.layers.0.mlp.experts.1.up_proj", inputs=9))
    base = BaseLayers(write(tmp_path / "all/model.safetensors", {"model.layers.0.mlp.experts.up_proj": (2, 6, 4)}))
    assert base.why_unfit(adapter(tmp_path, "model.layers.0.mlp.experts.1.up_proj")) == ""


def test_files_with_vllms_own_names_of_layers_are_not_read(tmp_path: Path) -> None:
    fused = {"model.layers.0.self_attn.qkv_proj.weight": (OUTPUTS, INPUTS)}
    base = BaseLayers(write(tmp_path / "base/model-rank-0-part-0.safetensors", fused))
    assert base.why_unfit(adapter(tmp_path)) == ""


def test_layers_that_could_not_be_read_are_read_again(tmp_path: Path) -> None:
    file = tmp_path / "base/model.safetensors"
    base = BaseLayers(write(file, {f"{LAYER}.weight": (OUTPUTS, INPUTS)}))
    whole = file.read_bytes()
    file.write_bytes(whole[:4])  # as slow network storage shows it at first
    assert base.why_unfit(adapter(tmp_path, "model.layers.1.x")) == ""
    file.write_bytes(whole)
    assert "no such layer" in base.why_unfit(adapter(tmp_path, "model.layers.1.x"))


def test_a_deeply_nested_header_is_left_to_the_engine(base: BaseLayers, tmp_path: Path) -> None:
    text = b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/adapter_model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    assert base.why_unfit(str(tmp_path / "deep")) == ""
