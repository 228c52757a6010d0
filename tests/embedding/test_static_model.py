"""The static model: part of the model's folder, derived from the encoder, and similar to it."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from pointsman_embedding import MiniLM, ModelMissing, StaticModel


@pytest.fixture(scope="module")
def static_model(model_folder: Path) -> StaticModel:
    return StaticModel.load(model_folder)


@pytest.fixture
def copy(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "minilm"))


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [
        ("my card was stolen", "please block my credit card", "please play some jazz"),
        ("Is the train late?", "railway delays", "a recipe for onion soup"),
        ("How do I reset my password?", "I forgot my login credentials", "the exchange rate of the euro"),
    ],
)
def test_texts_with_the_same_meaning_are_more_similar(
    static_model: StaticModel, text: str, near: str, far: str
) -> None:
    itself, nearer, farther = static_model.embed([text, near, far])
    assert itself @ nearer > itself @ farther + 0.1


def test_vectors_have_length_one_or_are_zero_without_known_tokens(static_model: StaticModel) -> None:
    vectors = static_model.embed(["hello there", "a", "", "🚂", "[UNK]"])
    assert (vectors.shape, vectors.dtype) == ((5, static_model.dimensions), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 0, 0, 0], atol=1e-5)
    assert static_model.embed([]).shape == (0, 256)


def test_a_text_is_the_sum_of_its_words(static_model: StaticModel) -> None:
    text = "Straße, unbelievable tokenization!"
    words = ["straße", ",", "unbelievable", "tokenization", "!"]
    np.testing.assert_allclose(static_model.sum_of(text), sum(map(static_model.sum_of, words)), atol=1e-4)


def test_spans_are_the_tokens_positions(static_model: StaticModel) -> None:
    text = "Two dogs, please"
    assert [text[start:end] for start, end in static_model.spans(text)] == ["Two", "dogs", ",", "please"]


def test_a_frequent_word_weighs_less_than_a_rare_one(static_model: StaticModel) -> None:
    together, the, lighthouse = static_model.embed(["the lighthouse", "the", "lighthouse"])
    assert together @ lighthouse > together @ the


def test_it_has_its_own_fingerprint_and_does_not_change_the_encoders(
    static_model: StaticModel, minilm: MiniLM, model_folder: Path
) -> None:
    assert re.fullmatch(r"static-256-[0-9a-f]{12}", static_model.fingerprint)
    assert minilm.fingerprint == json.loads((model_folder / "manifest.json").read_text("utf-8"))["fingerprint"]
    for of_encoder in (None, minilm.fingerprint):
        assert StaticModel.load(model_folder, of_encoder).fingerprint == static_model.fingerprint
    with pytest.raises(ModelMissing, match=r"was not made from this encoder"):
        StaticModel.load(model_folder, "another encoder")


@pytest.mark.parametrize("name", ["static.npy", "static.json"])
def test_a_folder_without_it_is_refused_and_the_command_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(
        ModelMissing, match=rf"{name} is not there; make it with `python -m pointsman_embedding\.prepare"
    ):
        StaticModel.load(copy)
    assert MiniLM.load(copy).fingerprint


def test_a_modified_table_is_rejected(copy: Path) -> None:
    table = bytearray((copy / "static.npy").read_bytes())
    table[-1] ^= 1
    (copy / "static.npy").write_bytes(table)
    with pytest.raises(ModelMissing, match=r"static\.npy is not the file that static\.json describes"):
        StaticModel.load(copy)


@pytest.mark.parametrize("manifest", ['{"fingerprint": "static-256-000000000000"}', "[]", "{"])
def test_a_table_of_another_encoder_or_recipe_is_refused(copy: Path, manifest: str) -> None:
    (copy / "static.json").write_text(manifest, encoding="utf-8")
    with pytest.raises(ModelMissing, match=r"was not made from this encoder by recipe 1|is not JSON"):
        StaticModel.load(copy)
