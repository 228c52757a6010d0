"""`pointsman adapters freshness` reports documents that have changed since the serving adapters were trained."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from pointsman.v1 import lora_server_pb2 as pb
from pointsman.v1 import lora_server_pb2_grpc, retriever_pb2, retriever_pb2_grpc
from pointsman_servicekit.document_sketch import MANIFEST_KEY_PREFIX, Sketch, sketch_of

VERSION = "triage@111111111111"


def documents(rewritten: int) -> Sketch:
    """Returns the sketch of twenty documents, of which the first `rewritten` have a new text."""
    return sketch_of((f"d{n}", b"new" if n < rewritten else b"old") for n in range(20))


class LoraServer(lora_server_pb2_grpc.LoraServerServicer):
    async def List(self, request: Any, context: Any) -> pb.ListAdaptersResponse:
        facts = {
            "data_set": "triage/abc",
            "data_unix": "1795644648",
            MANIFEST_KEY_PREFIX + "handbook": str(documents(0)),
        }
        serving = pb.AdapterVersion(version=VERSION, aliases=["triage@prod"], facts=facts)
        invalid = {MANIFEST_KEY_PREFIX + "manual": "5:"}
        silent = pb.AdapterVersion(version="voice@222222222222", aliases=["voice@prod"], facts=invalid)
        idle = pb.AdapterVersion(version="triage@333333333333", facts=facts)
        return pb.ListAdaptersResponse(versions=[serving, silent, idle])


class Retriever(retriever_pb2_grpc.RetrieverServicer):
    async def Sketch(self, request: Any, context: Any) -> retriever_pb2.SketchResponse:
        now = documents(5)
        return retriever_pb2.SketchResponse(documents=now.documents, smallest=now.smallest)


@pytest.fixture
def ask(cli: Callable[..., Any], grpc_server: Callable[..., str]) -> Callable[..., Any]:
    lora = grpc_server(
        "pointsman.v1.LoraServer",
        lambda server: lora_server_pb2_grpc.add_LoraServerServicer_to_server(LoraServer(), server),
    )
    retriever = grpc_server(
        "pointsman.v1.Retriever",
        lambda server: retriever_pb2_grpc.add_RetrieverServicer_to_server(Retriever(), server),
    )
    return lambda *arguments: cli("adapters", "freshness", *arguments, "--lora-server", lora, "--retriever", retriever)


def test_serving_adapters_are_compared_with_the_current_documents(ask: Callable[..., Any]) -> None:
    body = {one["version"]: one for one in json.loads(ask("--json").out)}
    assert set(body) == {VERSION, "voice@222222222222"}
    assert (body[VERSION]["data_set"], body[VERSION]["collection"]) == ("triage/abc", "handbook")
    assert body[VERSION]["changed"] == pytest.approx(0.25)
    shown = ask().out
    assert "25% of its documents" in shown
    assert "no collection is noted" in shown


def test_an_invalid_sketch_is_left_out_with_a_warning(ask: Callable[..., Any]) -> None:
    asked = ask("--json")
    assert "the manifest of voice@222222222222 has an invalid sketch: '5:' is no sketch of documents" in asked.err
    voice = next(one for one in json.loads(asked.out) if one["version"].startswith("voice"))
    assert (voice["collection"], voice["changed"]) == ("", 0.0)


def test_exceeding_the_threshold_sets_the_exit_code(ask: Callable[..., Any]) -> None:
    assert ask("--warn-above", 0.3).code == 0
    assert ask("--warn-above", 0.2).code == 1
