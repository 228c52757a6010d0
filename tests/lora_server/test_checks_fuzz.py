"""Whatever an adapter's folder contains, the result is a version or a clear rejection, and never another error."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pointsman_lora_server.checks.base_layers import BaseModelSpec
from pointsman_lora_server.store.artifact_store import import_adapter
from pointsman_servicekit.errors import InvalidArgument

from tests.lora_server.server_process import MakeAdapter

KEYS = (
    *("peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "target_modules", "bias", "rank_pattern"),
    *("alpha_pattern", "use_dora", "use_rslora", "layers_to_transform", "layers_pattern", "exclude_modules"),
    *("modules_to_save", "init_lora_weights", "fan_in_fan_out"),
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 10**20)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["q_proj", "v_proj", "self_attn", "tiny-base", "LORA", "none", "CAUSAL_LM"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
SETTINGS = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _outcome(base: BaseModelSpec, folder: Path) -> str:
    """Returns "kept", or the code with which the adapter is rejected; any other error is raised."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            import_adapter(folder, Path(scratch), base, max_rank=8)
        except InvalidArgument as error:
            return error.code
        return "kept"


@SETTINGS
@given(changes=st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=3))
def test_any_values_in_the_config(base: BaseModelSpec, make_adapter: MakeAdapter, changes: dict[str, Any]) -> None:
    assert _outcome(base, make_adapter(config=changes))


@SETTINGS
@given(data=st.data())
@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_any_bytes_changed_in_a_file(
    base: BaseModelSpec, make_adapter: MakeAdapter, file: str, data: st.DataObject
) -> None:
    path = make_adapter() / file
    raw = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4)):
        raw[place] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw)

    assert _outcome(base, path.parent)


@SETTINGS
@given(raw=st.binary(max_size=200), rows=st.lists(VALUES, max_size=3))
@pytest.mark.parametrize("file", ["samples.jsonl", "training.json"])
def test_anything_beside_the_adapter(
    base: BaseModelSpec, make_adapter: MakeAdapter, file: str, raw: bytes, rows: list[Any]
) -> None:
    folder = make_adapter()
    for written in (raw, "\n".join(json.dumps(row) for row in rows).encode()):
        (folder / file).write_bytes(written)

        assert _outcome(base, folder) in ("kept", "bad_samples", "bad_report")
