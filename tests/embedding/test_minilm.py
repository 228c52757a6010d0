"""Embeddings equal reference values, and do not depend on other texts in the batch."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pointsman_embedding import MiniLM

PASSWORD = "How do I reset my password?"
CHARGED_TWICE = "Why was my card charged twice for the same purchase?"
FAISS = "FAISS flat index returns exact neighbours while HNSW is approximate."
STREET = "Straße nach München gesperrt"

# The first twelve of 384 components from the original weights in fp32, in PyTorch with transformers.
FIRST_COMPONENTS = {
    PASSWORD: (0.0069, -0.063, -0.072, -0.0325, -0.0427, 0.0704, 0.0091, 0.0154, 0.062, 0.0169, -0.0435, 0.038),
    CHARGED_TWICE: (0.0157, 0.0436, 0.0046, 0.0755, 0.0181, -0.0673, 0.0494, -0.0229, 0.1037, -0.0377, 0.07, -0.0189),
    FAISS: (-0.0206, -0.0178, 0.0242, 0.0121, 0.0422, -0.0465, -0.0711, 0.0563, -0.0092, -0.039, -0.0148, 0.0263),
    STREET: (0.071, 0.0506, -0.0423, -0.0261, -0.0676, 0.0815, -0.0026, 0.0541, -0.0095, -0.0648, 0.0094, -0.0665),
}
# For int8; the maximum seen is 0.016 over all components of these texts.
TOLERANCE = 0.025


@pytest.mark.parametrize("text", FIRST_COMPONENTS)
def test_a_vector_is_the_one_of_the_original_model_within_the_error_of_int8(minilm: MiniLM, text: str) -> None:
    expected = np.array(FIRST_COMPONENTS[text])
    found = minilm.embed([text])[0][: len(expected)]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    assert found @ expected / (np.linalg.norm(found) * np.linalg.norm(expected)) > 0.97


def test_every_vector_has_length_one(minilm: MiniLM) -> None:
    vectors = minilm.embed([PASSWORD, "a", "", "日本語", "word " * 2000])
    assert vectors.shape == (5, minilm.dimensions)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [
        (PASSWORD, "I forgot my login credentials", "What is the exchange rate of the euro?"),
        ("my card was stolen", "please block my credit card", "please play some jazz"),
        ("def add(a, b): return a + b", "a Python function that sums two numbers", "a recipe for onion soup"),
    ],
)
def test_texts_with_the_same_meaning_are_more_similar(minilm: MiniLM, text: str, near: str, far: str) -> None:
    itself, nearer, farther = minilm.embed([text, near, far])
    assert itself @ nearer > itself @ farther + 0.1


def test_a_vector_does_not_depend_on_the_batch(minilm: MiniLM) -> None:
    texts = [PASSWORD, "word " * 200, "", CHARGED_TWICE]
    together = minilm.embed(texts)
    alone = np.concatenate([minilm.embed([text]) for text in texts])
    np.testing.assert_array_equal(together, alone)


def test_threads_can_share_the_model(minilm: MiniLM) -> None:
    texts = list(FIRST_COMPONENTS) * 5
    with ThreadPoolExecutor(4) as pool:
        shared = np.concatenate(list(pool.map(lambda text: minilm.embed([text]), texts)))
    np.testing.assert_array_equal(shared, minilm.embed(texts))


def test_no_texts_give_no_rows(minilm: MiniLM) -> None:
    vectors = minilm.embed([])
    assert vectors.shape == (0, 384)
    assert vectors.dtype == np.float32


def test_the_256th_token_is_the_last_that_is_read(minilm: MiniLM) -> None:
    # With [CLS] and [SEP], 254 words of one token each fit.
    read = "river " * 254
    all_read, beyond_the_limit, last_one_changed = minilm.embed([read, read + "invoice " * 500, read[:-6] + "invoice"])
    np.testing.assert_array_equal(beyond_the_limit, all_read)
    assert not np.array_equal(last_one_changed, all_read)


def test_the_tokenizer_measures_a_text_beyond_what_the_model_reads(minilm: MiniLM) -> None:
    assert len(minilm.tokenizer.encode("river " * 1000, add_special_tokens=False).ids) == 1000
    assert len(minilm.tokenizer.encode("river").ids) == 3


def test_the_fingerprint_names_the_model_and_is_the_same_at_each_load(minilm: MiniLM, model_folder: Path) -> None:
    assert re.fullmatch(r"minilm-l6-v2-int8-[0-9a-f]{12}", minilm.fingerprint)
    assert MiniLM.load(model_folder, threads=2).fingerprint == minilm.fingerprint


def test_onnx_runtime_reports_nothing_and_stores_nothing(tmp_path: Path, model_folder: Path) -> None:
    """Its wheels report their use to Microsoft unless this is disabled before they are imported."""
    load = f"MiniLM.load(Path({str(model_folder)!r})).embed(['a'])"
    program = f"from pathlib import Path; from pointsman_embedding import MiniLM; {load}"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    places = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", program], env=environment | places, check=True, timeout=60)
    assert list(tmp_path.iterdir()) == []


GROWTH = """
import ctypes, re, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pointsman_embedding import MiniLM

libc = ctypes.CDLL(None)
libc.mallopt(-8, 1)  # one arena, as in the services

def anonymous_megabytes():
    libc.malloc_trim(0)
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1000

model = MiniLM.load(Path(sys.argv[1]))
model.embed(["word"])
before = anonymous_megabytes()
with ThreadPoolExecutor(4) as threads:
    list(threads.map(model.embed, [["word " * 250]] * 8))
print(anonymous_megabytes() - before)
"""


def test_embedding_long_texts_at_once_keeps_no_memory(model_folder: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", GROWTH, model_folder], stdout=subprocess.PIPE, text=True, check=True)
    assert float(ended.stdout) < 4
