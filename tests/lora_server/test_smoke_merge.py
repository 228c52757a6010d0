"""Arguments with which an adapter cannot be merged into full weights are refused before the model is loaded."""

from pathlib import Path

import pytest
from pointsman_lora_server.smoke.merge import MergeError, merge

from tests.lora_server.server_process import MakeAdapter


def test_only_an_empty_or_a_new_folder_is_written(base_folder: Path, make_adapter: MakeAdapter, tmp_path: Path) -> None:
    adapter, file = make_adapter(), tmp_path / "model.bin"
    file.write_bytes(b"kept")

    with pytest.raises(MergeError, match=r"model\.bin is no folder; name a new one"):
        merge(base_folder, adapter, file)
    with pytest.raises(MergeError, match="is not empty; name a new folder"):
        merge(base_folder, adapter, adapter)
    assert file.read_bytes() == b"kept"


def test_the_missing_file_is_named(base_folder: Path, make_adapter: MakeAdapter, tmp_path: Path) -> None:
    adapter, out = make_adapter(), tmp_path / "out"
    (adapter / "adapter_model.safetensors").unlink()

    with pytest.raises(MergeError, match="holds no adapter_model"):
        merge(base_folder, adapter, out)
    with pytest.raises(MergeError, match="holds no config"):
        merge(adapter, adapter, out)
    with pytest.raises(MergeError, match="holds no adapter_config"):
        merge(base_folder, base_folder, out)
    assert not out.exists()
