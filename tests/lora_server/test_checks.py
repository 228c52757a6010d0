"""Every kind of invalid adapter is rejected before it reaches the engine, with its own reason."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pointsman_lora_server.checks.base_layers import BaseModelSpec, read_base
from pointsman_lora_server.store import ArtifactStore
from pointsman_servicekit.errors import InvalidArgument, NotFound, PointsmanError
from safetensors.numpy import load_file

from tests.lora_server.server_process import MakeAdapter

Tensors = dict[str, NDArray[Any]]

Q = "base_model.model.model.layers.0.self_attn.q_proj"
V = "base_model.model.model.layers.0.self_attn.v_proj"


@pytest.fixture
def store(tmp_path: Path, base: BaseModelSpec) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store", base, max_rank=8)


def refusal(store: ArtifactStore, folder: Path, name: str = "triage") -> PointsmanError:
    with pytest.raises(PointsmanError) as caught:
        store.add(name, folder, {})
    return caught.value


def test_a_valid_adapter_passes(store: ArtifactStore, make_adapter: MakeAdapter) -> None:
    version = store.add("triage", make_adapter(), {"seed": "7"})

    assert (version.name, version.rank, version.target_modules) == ("triage", 2, ("q_proj", "v_proj"))
    assert version.facts == {"seed": "7"}


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_a_valid_adapter_in_half_precision_passes(
    store: ArtifactStore, make_adapter: MakeAdapter, tensors: Tensors, dtype: str
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
        ("bad_config", {"lora_alpha": 10**400}),
        ("bad_config", {"alpha_pattern": {"q_proj": 0}}),
        ("bad_config", {"use_rslora": "yes"}),
        (
            "bad_config",
            {"rank_pattern": {"q_proj": 2, "self_attn.q_proj": 1}},
        ),  # contradictory
        ("bad_config", {"layers_to_transform": ["0"]}),
        ("wrong_base_model", {"base_model_name_or_path": ["tiny-base"]}),
        ("unsupported_feature", {"rank_pattern": {"(a+)+b": 2}}),
        ("unsupported_feature", {"target_modules": ["q_proj", "lm_head"]}),
        ("unsupported_feature", {"kasa_config": {"beta": 1}}),
        ("unknown_module", {"target_modules": ["q_proj", "query_key_value"]}),
        ("wrong_rank", {"r": 4}),  # the tensors have rank 2
        ("wrong_rank", {"rank_pattern": {"v_proj": 1}}),
        ("bad_weights", {"target_modules": ["q_proj"]}),  # and the tensors adapt v_proj too
        ("absurd_scale", {"lora_alpha": 1e6}),
    ],
)
def test_an_unsupported_config_is_rejected(
    store: ArtifactStore, make_adapter: MakeAdapter, code: str, config: Mapping[str, Any]
) -> None:
    error = refusal(store, make_adapter(config=config))

    assert isinstance(error, InvalidArgument)
    assert error.code == code


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", '{"r": NaN}', "\udcff", '{"r": 2, "r": 4}', '{"r": "\\ud800"}', '{"r": 1' + "0" * 5000 + "}"),
        '{"a": ' * 100 + "1" + "}" * 100,
        "[" * 100_000,
    ],
)
def test_a_config_that_is_no_json_object_is_refused(store: ArtifactStore, make_adapter: MakeAdapter, text: str) -> None:
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
        ("unpaired_tensor", _without(f"{Q}.lora_A.weight")),
        ("unpaired_tensor", _without(f"{Q}.lora_B.weight")),
        ("missing_tensors", lambda tensors: [_without(f"{V}.lora_{side}.weight")(tensors) for side in "AB"]),
        ("unsupported_feature", _with(f"{Q}.lora_B.bias", (8,))),
        ("bad_weights", _with(f"{Q}.lora_magnitude_vector", (8,))),
        ("bad_weights", _with("model.layers.0.self_attn.q_proj.lora_A.weight", (2, 8))),  # PEFT's prefix is missing
        ("bad_weights", _with(f"{Q}.weight", (8, 8))),
        ("wrong_shape", _with(f"{Q}.lora_A.weight", (3, 8))),  # a rank that differs from its other half
        ("wrong_shape", _with(f"{Q}.lora_A.weight", (16,))),
        ("wrong_shape", _with(f"{Q}.lora_A.weight", (2, 7))),
        ("wrong_shape", _with(f"{Q}.lora_A.weight", (2, 9))),
        ("wrong_shape", _with(f"{V}.lora_B.weight", (8, 2))),
        (
            "unknown_module",
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
        ("absurd_scale", _with(f"{V}.lora_B.weight", (4, 2), 1e30)),
        (
            "absurd_scale",  # each of them alone is accepted
            lambda tensors: [
                _with(f"{Q}.lora_{side}.weight", shape, 900.0)(tensors)
                for side, shape in (("A", (2, 8)), ("B", (8, 2)))
            ],
        ),
        (
            "no_effect",
            lambda tensors: [tensors[name].fill(0) for name in (f"{Q}.lora_B.weight", f"{V}.lora_B.weight")],
        ),
    ],
)
def test_weights_that_the_engine_would_misinterpret_are_rejected(
    store: ArtifactStore, make_adapter: MakeAdapter, tensors: Tensors, code: str, spoil: Callable[[Tensors], Any]
) -> None:
    spoil(tensors)

    error = refusal(store, make_adapter(weights=tensors))

    assert isinstance(error, InvalidArgument)
    assert error.code == code


def test_a_nan_in_bf16_is_found(store: ArtifactStore, make_adapter: MakeAdapter, tensors: Tensors) -> None:
    tensors[f"{Q}.lora_A.weight"][1, 3] = np.nan
    folder = make_adapter()
    _save_as("BF16", tensors, folder)

    assert refusal(store, folder).code == "not_finite"


def test_one_module_without_effect_is_accepted(
    store: ArtifactStore, make_adapter: MakeAdapter, tensors: Tensors
) -> None:
    tensors[f"{Q}.lora_B.weight"].fill(0)

    assert store.add("triage", make_adapter(weights=tensors), {}).version


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_truncated_weights_are_rejected(store: ArtifactStore, make_adapter: MakeAdapter, keep: int) -> None:
    weights = make_adapter() / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])

    assert refusal(store, weights.parent).code == "bad_weights"


def test_too_large_weights_are_rejected_before_they_are_copied(
    store: ArtifactStore, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    folder = make_adapter()
    os.truncate(folder / "adapter_model.safetensors", 1 << 40)  # a sparse file: it takes no space, but a copy would

    assert refusal(store, folder).code == "too_large"


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_folder_without_one_of_the_files_is_refused(
    store: ArtifactStore, make_adapter: MakeAdapter, missing: str
) -> None:
    folder = make_adapter()
    (folder / missing).unlink()

    error = refusal(store, folder)

    assert error.code in ("bad_config", "bad_weights")
    assert missing in error.message


@pytest.mark.parametrize("pickle", ["adapter_model.bin", "adapter_model.pt", "optimizer.pkl"])
def test_a_pickle_beside_the_weights_is_refused(store: ArtifactStore, make_adapter: MakeAdapter, pickle: str) -> None:
    folder = make_adapter()
    (folder / pickle).write_bytes(b"")

    assert refusal(store, folder).code == "unsafe_file"


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors", "training.json", "samples.jsonl"])
@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder", "device"])
def test_special_files_are_rejected(
    store: ArtifactStore, make_adapter: MakeAdapter, tmp_path: Path, file: str, kind: str
) -> None:
    folder = make_adapter()
    elsewhere = tmp_path / "elsewhere"
    (folder / file).touch()
    (folder / file).rename(elsewhere)
    if kind == "pipe":
        os.mkfifo(folder / file)
    elif kind == "folder":
        (folder / file).mkdir()
    elif kind == "device":
        (folder / file).symlink_to("/dev/zero")  # creating a device needs privileges
    else:
        (folder / file).symlink_to(elsewhere if kind == "link" else tmp_path / "nowhere")

    assert refusal(store, folder).code == "unsafe_file"


@pytest.mark.parametrize("kind", ["link", "pipe", "file"])
def test_a_link_in_place_of_the_folder_is_rejected(
    store: ArtifactStore, make_adapter: MakeAdapter, tmp_path: Path, kind: str
) -> None:
    folder, real = tmp_path / "given", make_adapter()
    if kind == "link":
        folder.symlink_to(real)
    elif kind == "pipe":
        os.mkfifo(folder)
    else:
        folder.touch()

    assert refusal(store, folder).code == "unsafe_file"


@pytest.mark.parametrize(
    "name",
    [
        *("", "a/b", "../up", "..", "/etc", "Triage", "a" * 65, "a@b", "a b", ".incoming", "ünïcode", "тriage", "a\0b"),
        *("triage\n", "ｔriage", "%2e%2e"),
    ],
)
def test_a_name_that_would_not_be_safe_as_a_folder_is_refused(
    store: ArtifactStore, make_adapter: MakeAdapter, name: str
) -> None:
    assert refusal(store, make_adapter(), name).code == "bad_name"


def test_a_path_with_parent_references_is_rejected(store: ArtifactStore, make_adapter: MakeAdapter) -> None:
    assert refusal(store, make_adapter() / ".." / "adapter").code == "path_outside"
    assert refusal(store, Path("adapter")).code == "path_outside"
    assert refusal(store, Path("/adapter\0")).code == "path_outside"
    assert refusal(store, Path("/" + "a" * 5000)).code == "unsafe_file"


def test_a_missing_folder_is_not_found(store: ArtifactStore, tmp_path: Path) -> None:
    error = refusal(store, tmp_path / "nowhere")

    assert isinstance(error, NotFound)
    assert error.code == "unknown_folder"


@pytest.mark.parametrize("by_pattern", [r".*\.(q|v)_proj", "all-linear", "(a+)+$"])
def test_module_patterns_are_replaced_by_names(
    store: ArtifactStore, make_adapter: MakeAdapter, by_pattern: str
) -> None:
    """The pattern is never evaluated, because it may not terminate."""
    version = store.add("triage", make_adapter(config={"target_modules": by_pattern}), {})

    assert version.target_modules == ("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj")
    kept = json.loads((store.fetch(version) / "adapter_config.json").read_text())
    assert kept["target_modules"] == list(version.target_modules)


def test_modules_may_differ_in_rank_and_scaling(
    store: ArtifactStore, make_adapter: MakeAdapter, tensors: Tensors
) -> None:
    tensors[f"{V}.lora_A.weight"] = tensors[f"{V}.lora_A.weight"][:1]
    tensors[f"{V}.lora_B.weight"] = tensors[f"{V}.lora_B.weight"][:, :1].copy()
    config = {"rank_pattern": {"v_proj": 1}, "alpha_pattern": {"v_proj": 8}, "use_rslora": True}

    assert store.add("triage", make_adapter(config=config, weights=tensors), {}).rank == 2


def test_an_adapter_may_cover_some_layers_only(
    tmp_path: Path, base: BaseModelSpec, make_adapter: MakeAdapter, tensors: Tensors
) -> None:
    deeper = dict(base.layers) | {"model.layers.1.self_attn.q_proj": (8, 8), "model.layers.1.self_attn.v_proj": (4, 8)}
    store = ArtifactStore(tmp_path / "store", replace(base, layers=deeper), max_rank=8)

    assert refusal(store, make_adapter()).code == "missing_tensors"
    assert store.add("triage", make_adapter(config={"layers_to_transform": [0]}), {}).version


def test_a_dora_with_neutral_magnitudes_becomes_a_lora(
    store: ArtifactStore, make_adapter: MakeAdapter, tensors: Tensors
) -> None:
    magnitudes = _magnitudes(tensors, 1.001)

    version = store.add("triage", make_adapter(config={"use_dora": True}, weights=tensors | magnitudes), {})

    assert version.facts["converted_from"] == "DoRA"
    assert 0 < float(version.facts["converted_deviation"]) < 0.002
    folder = store.fetch(version)
    assert json.loads((folder / "adapter_config.json").read_text())["use_dora"] is False
    kept = load_file(folder / "adapter_model.safetensors")
    assert kept.keys() == tensors.keys()
    assert all((kept[name] == tensors[name]).all() for name in tensors)


def test_a_dora_with_other_magnitudes_is_rejected_with_the_measured_difference(
    store: ArtifactStore, make_adapter: MakeAdapter, tensors: Tensors
) -> None:
    weights = tensors | _magnitudes(tensors, 1.25)

    error = refusal(store, make_adapter(config={"use_dora": True}, weights=weights))

    assert error.code == "dora_not_exact"
    assert "25.00%" in error.message
    assert "smoke.merge" in error.message


def test_a_dora_without_all_its_magnitudes_is_refused(
    store: ArtifactStore, make_adapter: MakeAdapter, tensors: Tensors
) -> None:
    weights = tensors | _magnitudes(tensors, 1.0)
    del weights[f"{V}.lora_magnitude_vector"]

    assert refusal(store, make_adapter(config={"use_dora": True}, weights=weights)).code == "missing_tensors"


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        '{"messages": [], "answer": ""}',
        '{"messages": [{"role": "user", "content": "a"}]}',
        '{"messages": [{"role": "user", "content": "a"}], "answer": 1}',
        '{"messages": [{"role": "user", "content": "a"}], "answer": "b", "more": 1}',
        '{"messages": [{"role": "boss", "content": "a"}], "answer": "b"}',
        '{"messages": [{"role": "assistant", "content": "a"}], "answer": "b"}',
        '{"messages": ["a"], "answer": "b"}',
        '{"messages": [{"role": "user", "content": "\\ud800"}], "answer": "b"}',
        '{"messages": [{"role": "user", "content": "' + "a" * 70_000 + '"}], "answer": "b"}',
        '{"messages": [{"role": "user", "content": "a"}], "answer": "b"}\n' * 17,
        "\n" * (1 << 21),
    ],
)
def test_invalid_held_out_rows_are_rejected(store: ArtifactStore, make_adapter: MakeAdapter, text: str) -> None:
    folder = make_adapter()
    (folder / "samples.jsonl").write_text(text)

    assert refusal(store, folder).code == "bad_samples"


def test_an_invalid_training_report_is_rejected(store: ArtifactStore, make_adapter: MakeAdapter) -> None:
    folder = make_adapter()
    (folder / "training.json").write_text('{"loss": NaN}')

    assert refusal(store, folder).code == "bad_report"


def test_a_duplicate_tensor_name_is_rejected(store: ArtifactStore, make_adapter: MakeAdapter, tensors: Tensors) -> None:
    """Otherwise different readers would use different tensors of the two."""
    weights = make_adapter() / "adapter_model.safetensors"
    raw = weights.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = raw[8 : 8 + length].rstrip()[:-1] + b',"' + f"{Q}.lora_A.weight".encode() + b'":'
    header += json.dumps(json.loads(raw[8 : 8 + length])[f"{Q}.lora_A.weight"]).encode() + b"}"
    weights.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + length :])

    assert refusal(store, weights.parent).code == "bad_weights"


def test_the_base_model_may_be_named_by_digest_or_folder(base_folder: Path) -> None:
    (base_folder / "pointsman.json").write_text(json.dumps({"name": "tiny", "digest": "abc123"}))

    names = read_base(base_folder, "served").names

    assert names == {"served", "tiny", "abc123", str(base_folder.resolve())}


def test_the_default_chat_template_is_found_among_entries_of_other_forms(base_folder: Path) -> None:
    templates: list[object] = ["a text", None, {"name": []}, {"name": "default", "template": "{{ messages }}"}]
    (base_folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))

    assert read_base(base_folder, "x").chat_template_sha256 == hashlib.sha256(b"{{ messages }}").hexdigest()


def test_a_folder_without_a_model_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="base_model FOLDER"):
        read_base(tmp_path, "served")


def _magnitudes(tensors: Tensors, factor: float) -> Tensors:
    """Returns DoRA's magnitudes for these tensors; the base model's weights are zeros, and the scaling is 2."""
    return {
        f"{module}.lora_magnitude_vector": factor
        * np.linalg.norm(2.0 * tensors[f"{module}.lora_B.weight"] @ tensors[f"{module}.lora_A.weight"], axis=1)
        for module in (Q, V)
    }


def _save_as(dtype: str, tensors: Tensors, folder: Path) -> None:
    """Writes the file byte by byte, since numpy has no bf16: a bf16 consists of the upper bytes of a float32."""
    header, data = {}, b""
    for name, values in tensors.items():
        half = values.astype(np.float16) if dtype == "F16" else (values.view(np.uint32) >> 16).astype(np.uint16)
        raw = half.tobytes()
        header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
