"""What must not reach the engine, each with its own reason."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pointsman_lora_server.checks.base import Base, read_base
from pointsman_lora_server.store import Store
from pointsman_servicekit.errors import InvalidArgument, NotFound, PointsmanError

Tensors = dict[str, NDArray[Any]]
MakeAdapter = Callable[..., Path]

Q = "base_model.model.model.layers.0.self_attn.q_proj"
V = "base_model.model.model.layers.0.self_attn.v_proj"


@pytest.fixture
def store(tmp_path: Path, base: Base) -> Store:
    return Store(tmp_path / "store", base, max_rank=8)


def refusal(store: Store, folder: Path, name: str = "triage") -> PointsmanError:
    with pytest.raises(PointsmanError) as caught:
        store.add(name, folder, {})
    return caught.value


def test_a_good_adapter_passes(store: Store, make_adapter: MakeAdapter) -> None:
    version = store.add("triage", make_adapter(), {"seed": "7"})

    assert (version.name, version.rank, version.target_modules) == ("triage", 2, ("q_proj", "v_proj"))
    assert version.facts == {"seed": "7"}


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_a_good_adapter_in_half_precision_passes(
    store: Store, make_adapter: MakeAdapter, tensors: Tensors, dtype: str
) -> None:
    folder = make_adapter()
    _save_as(dtype, tensors, folder)

    assert store.add("triage", folder, {}).bytes < 1000


@pytest.mark.parametrize(
    ("code", "config"),
    [
        ("wrong_base_model", {"base_model_name_or_path": "another-base"}),
        ("wrong_base_model", {"base_model_name_or_path": None}),
        ("rank_too_high", {"r": 16}),
        ("rank_too_high", {"rank_pattern": {"q_proj": 16}}),
        ("unsupported_feature", {"peft_type": "IA3"}),
        ("unsupported_feature", {"task_type": "SEQ_CLS"}),
        ("unsupported_feature", {"use_dora": True}),
        ("unsupported_feature", {"bias": "lora_only"}),
        ("unsupported_feature", {"lora_bias": True}),
        ("unsupported_feature", {"modules_to_save": ["lm_head"]}),
        ("unsupported_feature", {"layer_replication": [[0, 1]]}),
        ("unsupported_feature", {"init_lora_weights": "pissa"}),
        ("bad_config", {"peft_type": None}),
        ("bad_config", {"r": 0}),
        ("bad_config", {"r": "2"}),
        ("bad_config", {"r": True}),
        ("bad_config", {"lora_alpha": -1}),
        ("bad_config", {"target_modules": []}),
        ("bad_config", {"rank_pattern": [1]}),
        ("bad_weights", {"r": 4}),  # the tensors say 2
    ],
)
def test_a_config_that_the_engine_must_not_see_is_refused(
    store: Store, make_adapter: MakeAdapter, code: str, config: Mapping[str, Any]
) -> None:
    error = refusal(store, make_adapter(config=config))

    assert isinstance(error, InvalidArgument)
    assert error.code == code


@pytest.mark.parametrize("text", ["{", "[]", '{"r": NaN}', "\udcff"])
def test_a_config_that_is_no_json_object_is_refused(store: Store, make_adapter: MakeAdapter, text: str) -> None:
    folder = make_adapter()
    (folder / "adapter_config.json").write_bytes(text.encode(errors="surrogateescape"))

    assert refusal(store, folder).code == "bad_config"


def _without(name: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.__delitem__(name)


def _with(name: str, shape: tuple[int, ...], fill: float = 1.0) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.__setitem__(name, np.full(shape, fill, np.float32))


@pytest.mark.parametrize(
    ("code", "spoil"),
    [
        ("bad_weights", _without(f"{Q}.lora_A.weight")),
        ("bad_weights", _without(f"{Q}.lora_B.weight")),
        ("bad_weights", _with("model.layers.0.self_attn.q_proj.lora_A.weight", (2, 8))),  # PEFT's prefix is missing
        ("bad_weights", _with(f"{Q}.weight", (8, 8))),
        ("bad_weights", _with(f"{Q}.lora_A.weight", (3, 8))),  # another rank than its other half
        ("bad_weights", _with(f"{Q}.lora_A.weight", (16,))),
        ("wrong_base_model", _with(f"{Q}.lora_A.weight", (2, 7))),
        ("wrong_base_model", _with(f"{V}.lora_B.weight", (8, 2))),
        (
            "wrong_base_model",
            lambda tensors: [
                _with(f"base_model.model.model.layers.9.mlp.up_proj.lora_{side}.weight", shape)(tensors)
                for side, shape in (("A", (2, 8)), ("B", (8, 2)))
            ],
        ),
        (
            "unsupported_feature",
            lambda tensors: [
                _with(f"base_model.model.lm_head.lora_{side}.weight", shape)(tensors)
                for side, shape in (("A", (2, 8)), ("B", (16, 2)))
            ],
        ),
        ("unsupported_feature", _with("base_model.model.model.embed_tokens.lora_embedding_A", (2, 16))),
        ("not_finite", _with(f"{Q}.lora_A.weight", (2, 8), float("nan"))),
        ("not_finite", _with(f"{V}.lora_B.weight", (4, 2), float("-inf"))),
        ("not_finite", _with(f"{V}.lora_B.weight", (4, 2), 1e30)),
        (
            "no_effect",
            lambda tensors: [tensors[name].fill(0) for name in (f"{Q}.lora_B.weight", f"{V}.lora_B.weight")],
        ),
    ],
)
def test_weights_that_the_engine_would_serve_wrongly_are_refused(
    store: Store, make_adapter: MakeAdapter, tensors: Tensors, code: str, spoil: Callable[[Tensors], Any]
) -> None:
    spoil(tensors)

    error = refusal(store, make_adapter(weights=tensors))

    assert isinstance(error, InvalidArgument)
    assert error.code == code


def test_a_nan_hides_in_bf16_no_better(store: Store, make_adapter: MakeAdapter, tensors: Tensors) -> None:
    tensors[f"{Q}.lora_A.weight"][1, 3] = np.nan
    folder = make_adapter()
    _save_as("BF16", tensors, folder)

    assert refusal(store, folder).code == "not_finite"


def test_one_module_without_effect_is_no_reason_to_refuse(
    store: Store, make_adapter: MakeAdapter, tensors: Tensors
) -> None:
    tensors[f"{Q}.lora_B.weight"].fill(0)

    assert store.add("triage", make_adapter(weights=tensors), {}).version


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_weights_that_were_cut_off_are_refused(store: Store, make_adapter: MakeAdapter, keep: int) -> None:
    weights = make_adapter() / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])

    assert refusal(store, weights.parent).code == "bad_weights"


def test_weights_larger_than_any_adapter_are_refused_before_they_are_copied(
    store: Store, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    folder = make_adapter()
    os.truncate(folder / "adapter_model.safetensors", 1 << 40)  # sparse: it takes no room, but a copy would

    assert refusal(store, folder).code == "bad_weights"


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_folder_without_one_of_the_files_is_refused(store: Store, make_adapter: MakeAdapter, missing: str) -> None:
    folder = make_adapter()
    (folder / missing).unlink()

    error = refusal(store, folder)

    assert error.code in ("bad_config", "bad_weights")
    assert missing in error.message


@pytest.mark.parametrize("pickle", ["adapter_model.bin", "adapter_model.pt", "optimizer.pkl"])
def test_a_pickle_beside_the_weights_is_refused(store: Store, make_adapter: MakeAdapter, pickle: str) -> None:
    folder = make_adapter()
    (folder / pickle).write_bytes(b"")

    assert refusal(store, folder).code == "unsafe_file"


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_symbolic_link_is_refused(store: Store, make_adapter: MakeAdapter, tmp_path: Path, file: str) -> None:
    folder = make_adapter()
    (folder / file).rename(tmp_path / "elsewhere")
    (folder / file).symlink_to(tmp_path / "elsewhere")

    assert refusal(store, folder).code == "unsafe_file"


@pytest.mark.parametrize("name", ["", "a/b", "../up", "Triage", "a" * 65, "a@b", "a b", ".incoming"])
def test_a_name_that_would_not_be_safe_as_a_folder_is_refused(
    store: Store, make_adapter: MakeAdapter, name: str
) -> None:
    assert refusal(store, make_adapter(), name).code == "bad_name"


def test_a_path_that_climbs_is_refused(store: Store, make_adapter: MakeAdapter) -> None:
    assert refusal(store, make_adapter() / ".." / "adapter").code == "path_outside"
    assert refusal(store, Path("adapter")).code == "path_outside"


def test_a_folder_that_is_not_there_is_not_found(store: Store, tmp_path: Path) -> None:
    error = refusal(store, tmp_path / "nowhere")

    assert isinstance(error, NotFound)
    assert error.code == "unknown_folder"


def test_the_base_answers_to_its_digest_and_its_folder_too(base_folder: Path) -> None:
    (base_folder / "pointsman.json").write_text(json.dumps({"name": "tiny", "digest": "abc123"}))

    names = read_base(base_folder, "served").names

    assert names == {"served", "tiny", "abc123", str(base_folder.resolve())}


def test_a_folder_without_a_model_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="base_model FOLDER"):
        read_base(tmp_path, "served")


def _save_as(dtype: str, tensors: Tensors, folder: Path) -> None:
    """By hand, since numpy has no bf16: its bytes are the upper halves of a float32's."""
    header, data = {}, b""
    for name, values in tensors.items():
        half = values.astype(np.float16) if dtype == "F16" else (values.view(np.uint32) >> 16).astype(np.uint16)
        raw = half.tobytes()
        header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
