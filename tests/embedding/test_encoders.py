"""Embedding models that a user configures: a folder with an ONNX file, or an endpoint that serves /v1/embeddings."""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pointsman_embedding import EncoderConfig, MiniLM, open_encoder, read_encoder_config
from pointsman_embedding import endpoint as endpoint_module
from pointsman_embedding.onnx_folder import OnnxEncoder
from pointsman_servicekit.errors import FailedPrecondition, Unavailable
from pydantic import ValidationError

from tests.embedding.second_encoder import make_second_encoder
from tests.ports import serving

TEXTS = ["How do I reset my password?", "I forgot my password", "The cat sits on the mat"]


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    prompts = {"query": "query: ", "document": "passage: "}
    return make_second_encoder(tmp_path_factory.mktemp("encoders") / "second", model_folder, prompts=prompts)


def load(folder: Path, **settings: Any) -> OnnxEncoder:
    return OnnxEncoder.load(EncoderConfig(folder=folder, **settings))


def test_a_folder_is_read_as_sentence_transformers_writes_it(second: Path) -> None:
    encoder = load(second)
    assert (encoder.dimensions, encoder.max_tokens) == (128, 128)
    assert (encoder.query_prefix, encoder.passage_prefix) == ("query: ", "passage: ")
    vectors = encoder.embed(TEXTS)
    assert vectors.shape == (3, 128)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.6 > 0.3 > vectors[0] @ vectors[2]


def test_a_long_text_is_cut_at_the_models_length_and_keeps_its_last_special_token(second: Path) -> None:
    encoder = load(second)
    words = "train " * 126  # with [CLS] and [SEP] 128 tokens
    assert np.array_equal(encoder.embed([words])[0], encoder.embed([f"{words} umbrella umbrella"])[0])
    assert not np.array_equal(encoder.embed([words])[0], encoder.embed([f"{words[:-6]} umbrella"])[0])


def test_each_pooling_has_its_own_vectors_and_fingerprint(tmp_path: Path, model_folder: Path) -> None:
    names = ("pooling_mode_mean_tokens", "pooling_mode_cls_token", "pooling_mode_max_tokens", "pooling_mode_lasttoken")
    encoders = [load(make_second_encoder(tmp_path / name, model_folder, pooling=name)) for name in names]
    vectors = np.stack([encoder.embed(TEXTS[:1])[0] for encoder in encoders])
    assert len({encoder.fingerprint for encoder in encoders}) == len(names)
    assert (vectors @ vectors.T - np.eye(len(names)) < 0.999).all()
    assert np.allclose(vectors[0] @ load(tmp_path / names[0]).embed(TEXTS[:1])[0], 1)


def test_what_changes_the_vectors_changes_the_fingerprint(second: Path, tmp_path: Path, model_folder: Path) -> None:
    narrow = make_second_encoder(tmp_path / "narrow", model_folder, dimensions=64)
    names = {load(second).fingerprint, load(second, query_prefix="").fingerprint, load(narrow).fingerprint}
    assert len(names) == 3
    assert load(second).fingerprint == load(second, multilingual=True).fingerprint


def break_folder(folder: Path, how: str) -> None:
    if how == "no graph":
        (folder / "model.onnx").unlink()
    elif how == "two graphs":
        (folder / "model.onnx").rename(folder / "a.onnx")
        (folder / "b.onnx").write_bytes(b"")
    elif how == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif how == "damaged":
        (folder / "model.onnx").write_bytes(b"not a graph")
    elif how == "unknown pooling":
        (folder / "1_Pooling/config.json").write_text('{"pooling_mode_weightedmean_tokens": true}')
    elif how == "further module":
        dense = {"type": "sentence_transformers.models.Dense", "path": "2_Dense"}
        (folder / "modules.json").write_text(json.dumps([dense]))
    elif how == "not JSON":
        (folder / "sentence_bert_config.json").write_text("{")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("no graph", "has no ONNX file (model.onnx or onnx/model.onnx); make one: optimum-cli export onnx"),
        ("two graphs", "has a.onnx, b.onnx; name the one to use model.onnx"),
        ("no tokenizer", "has no tokenizer.json"),
        ("damaged", "model.onnx cannot be loaded"),
        ("unknown pooling", "is weightedmean; known: mean, cls, max, lasttoken"),
        ("further module", "has the module 'Dense', which the ONNX file does not contain"),
        ("not JSON", "sentence_bert_config.json is not JSON"),
    ],
)
def test_an_unusable_folder_is_refused_with_the_reason(
    tmp_path: Path, model_folder: Path, how: str, reason: str
) -> None:
    folder = make_second_encoder(tmp_path / "encoder", model_folder)
    break_folder(folder, how)
    with pytest.raises(FailedPrecondition, match=re.escape(reason)):
        load(folder)


def test_a_graph_whose_vectors_depend_on_the_length_is_refused(tmp_path: Path, model_folder: Path) -> None:
    folder = make_second_encoder(tmp_path / "encoder", model_folder, scores=True)
    with pytest.raises(FailedPrecondition, match=r"gives texts vectors of different shapes, \(\d+,\) and"):
        load(folder)
    with pytest.raises(FailedPrecondition, match="there is no folder"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ({}, "needs a folder, or a url with a model"),
        ({"folder": "x", "url": "http://h", "model": "m"}, "needs a folder, or a url with a model"),
        ({"url": "http://h"}, "must be set together"),
        ({"url": "ftp://h", "model": "m"}, "url"),
        ({"folder": "x", "api_key_env": "K"}, "only an endpoint needs a key"),
        ({"multilingual": True, "api_key_env": "K"}, "only an endpoint needs a key"),
        ({"multilingual": True, "model": "m"}, "must be set together"),
        ({"multilingual": False}, "or multilingual: true"),
    ],
)
def test_a_configuration_names_one_model(written: dict[str, str], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        EncoderConfig.model_validate(written)


def test_the_key_is_read_from_a_yaml_file_and_its_folder_is_relative_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("engines: {a: {lora_server: ${UNSET_HERE}}}\nembedding: {folder: ${SIZE:-small}/e5}\n")
    found = read_encoder_config(file)
    assert found is not None
    assert found.folder == tmp_path / "small/e5"
    monkeypatch.setenv("SIZE", "large")
    assert read_encoder_config(file) == EncoderConfig(folder=tmp_path / "large/e5")
    file.write_text("models: {}\n")
    assert read_encoder_config(file) is None
    file.write_text("embedding: {folder: a, pooling: cls}\n")
    with pytest.raises(FailedPrecondition, match=r"unknown key 'embedding\.pooling'; known: folder, url, model"):
        read_encoder_config(file)


class Endpoint:
    """A server of /v1/embeddings that returns MiniLM's vectors, changed as a test says."""

    def __init__(self, minilm: MiniLM) -> None:
        self.url, self.requests, self.keys = "", 0, list[str]()
        self.name, self.dimensions, self.turned = "minilm", 384, False
        self.answers: list[tuple[int, str]] = []
        """Status and body of the next answers, instead of vectors."""
        self.endless: tuple[bytes, float] | None = None
        """What an answer repeats until the caller hangs up, and the seconds between."""
        self.minilm = minilm

    def answer(self, texts: list[str]) -> tuple[int, str]:
        self.requests += 1
        if self.answers:
            return self.answers.pop(0)
        vectors = self.minilm.embed(texts)[:, :: -1 if self.turned else 1][:, : self.dimensions]
        data = [{"index": n, "embedding": vector} for n, vector in enumerate(vectors.tolist())]
        return 200, json.dumps({"data": data[::-1], "model": self.name})  # the order is free


@pytest.fixture
def endpoint(minilm: MiniLM) -> Iterator[Endpoint]:
    double = Endpoint(minilm)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            double.keys.append(self.headers.get("authorization", ""))
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if double.endless:
                self.send_response(200)
                self.send_header("content-length", str(2**40))
                self.end_headers()
                with suppress(OSError):
                    while True:
                        self.wfile.write(double.endless[0])
                        time.sleep(double.endless[1])
                self.close_connection = True
                return
            status, text = double.answer(body["input"]) if self.path == "/v1/embeddings" else (404, "")
            self.send_response(status)
            if status == 302:
                self.send_header("location", "http://elsewhere.invalid/v1/embeddings")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as double.url:
        yield double


def connect(endpoint: Endpoint, model_folder: Path, **settings: Any) -> endpoint_module.EndpointEncoder:
    config = EncoderConfig(url=endpoint.url, model="any", **{"timeout_seconds": 60, **settings})
    encoder = open_encoder(config, model_folder)
    assert isinstance(encoder, endpoint_module.EndpointEncoder)
    return encoder


def test_an_endpoints_vectors_are_used_under_its_fingerprint(
    endpoint: Endpoint, model_folder: Path, minilm: MiniLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDING_KEY", "secret")
    encoder = connect(endpoint, model_folder, api_key_env="EMBEDDING_KEY")
    many = [f"text {number}" for number in range(endpoint_module.MAX_BATCH + 2)]
    assert np.allclose(encoder.embed(many), minilm.embed(many), atol=1e-6)
    assert (encoder.dimensions, endpoint.requests) == (384, 3)  # a probe, and two batches
    assert set(endpoint.keys) == {"Bearer secret"}
    assert connect(endpoint, model_folder).fingerprint == encoder.fingerprint
    endpoint.name = "minilm-2"
    assert connect(endpoint, model_folder).fingerprint != encoder.fingerprint
    monkeypatch.delenv("EMBEDDING_KEY")
    with pytest.raises(FailedPrecondition, match="EMBEDDING_KEY, which is not set"):
        connect(endpoint, model_folder, api_key_env="EMBEDDING_KEY")


def test_an_endpoint_that_changes_its_model_is_refused_until_it_changes_back(
    endpoint: Endpoint, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = connect(endpoint, model_folder)
    endpoint.dimensions = 64
    with pytest.raises(Unavailable, match="its vectors have 64 dimensions, and had 384 at start"):
        encoder.embed(TEXTS)
    endpoint.dimensions, endpoint.name = 384, "another"
    with pytest.raises(Unavailable, match="answers as model 'another', and did as 'minilm' at start"):
        encoder.embed(TEXTS)
    endpoint.name, endpoint.turned = "minilm", True  # neither name nor dimensions tell
    monkeypatch.setattr(endpoint_module, "PROBE_SECONDS", 0.0)
    for _ in range(2):
        with pytest.raises(Unavailable, match="a known text's vector has cosine"):
            encoder.embed(TEXTS)
    endpoint.turned = False
    assert encoder.embed(TEXTS).shape == (3, 384)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((200, "<html>"), "its answer is not JSON: '<html>'"),
        ((302, ""), "redirects to http://elsewhere.invalid/v1/embeddings, which is not followed"),
        ((401, "no such key"), "it answered 401: no such key"),
        ((200, '{"data": []}'), "it answered 0 vectors"),
        ((200, '{"data": [{"index": 0, "embedding": "AAAA"}]}'), "did not embed 1 text"),
        ((200, '{"data": [{"index": 0, "embedding": [0, 0]}]}'), "are all zero"),
        ((200, "[]"), "did not embed 1 text"),
    ],
)
def test_a_wrong_answer_is_reported(
    endpoint: Endpoint, model_folder: Path, answer: tuple[int, str], reason: str
) -> None:
    endpoint.answers = [answer]
    with pytest.raises(Unavailable, match=re.escape(reason)):
        connect(endpoint, model_folder)
    assert endpoint.requests == 1


@pytest.mark.parametrize(
    ("endless", "reason"),
    [((b" ", 0.02), "took longer than 0.5 s"), ((b" " * 2**20, 0.0), "longer than 8388608 bytes")],
)
def test_an_answer_without_end_is_given_up(
    endpoint: Endpoint, model_folder: Path, endless: tuple[bytes, float], reason: str
) -> None:
    endpoint.endless = endless
    with pytest.raises(Unavailable, match=reason):
        connect(endpoint, model_folder, timeout_seconds=0.5 if endless[1] else 60)


def test_an_overloaded_endpoint_is_asked_again_and_one_that_stays_so_is_left_alone(
    endpoint: Endpoint, model_folder: Path
) -> None:
    endpoint.answers = [(429, "slow down"), (503, "")]
    encoder = connect(endpoint, model_folder)
    endpoint.answers = [(503, "overloaded")] * 3
    with pytest.raises(Unavailable, match="it answered 503: overloaded"):
        encoder.embed(TEXTS)
    before = endpoint.requests
    with pytest.raises(Unavailable, match="failed a moment ago"):
        encoder.embed(TEXTS)
    assert endpoint.requests == before


def test_threads_share_an_encoder(second: Path) -> None:
    encoder = load(second)
    expected, results = encoder.embed(TEXTS), list[Any]()
    threads = [threading.Thread(target=lambda: results.append(encoder.embed(TEXTS))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(np.array_equal(result, expected) for result in results)
