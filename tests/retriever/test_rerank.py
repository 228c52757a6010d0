"""Rerankers: the HTTP APIs against a small server, and extensions by module:attribute."""

import gzip
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from pointsman.v1 import retriever_pb2 as pb
from pointsman_retriever.rerank.http import tei_reranker
from pointsman_retriever.rerank.rerankers import RerankerOptions
from pointsman_servicekit.errors import FailedPrecondition, Unavailable

from tests.ports import serving
from tests.retriever.client import Refusal, Start


class ScoringServer(ThreadingHTTPServer):
    """A reranker over HTTP on a free port, with the headers and bodies of the requests that it received."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Scorer)
        self.asked: list[tuple[dict[str, str], dict[str, Any]]] = []


class Scorer(BaseHTTPRequestHandler):
    """Scores texts by length, the shortest first. The request's path selects the API."""

    server: ScoringServer

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((dict(self.headers), asked))
        if self.path in ("/flood", "/bomb"):
            piece = b" " * 65536 if self.path == "/flood" else gzip.compress(b" " * 65536)
            with suppress(ConnectionError):
                self.send_response(200)
                self.send_header("Content-Encoding", "identity" if self.path == "/flood" else "gzip")
                self.end_headers()
                while True:
                    self.wfile.write(piece)
            return
        if self.path == "/slow":
            self.send_response(200)
            self.end_headers()
            with suppress(ConnectionError):
                while True:
                    self.wfile.write(b" ")
                    time.sleep(0.02)
            return
        texts = asked.get("texts") or asked["documents"]
        scores = sorted(((index, 1.0 / len(text)) for index, text in enumerate(texts)), key=lambda one: -one[1])
        answers = {
            "/tei": [{"index": index, "score": score} for index, score in scores],
            "/cohere": {"results": [{"index": index, "relevance_score": score} for index, score in scores]},
            "/half": [{"index": 0, "score": 1.0}],
            "/odd": {"surprise": True},
            "/list": [[0, 1.0], [1, 1.0]],
            "/infinite": [{"index": 0, "score": float("inf")}, {"index": 1, "score": 0}],
            "/huge": [{"index": float("inf"), "score": 1.0}, {"index": 1, "score": 0}],
        }
        body = json.dumps(answers.get(self.path)).encode()
        self.send_response(200 if self.path in answers else 500)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Disables the log."""


@pytest.fixture
def scorer() -> Iterator[ScoringServer]:
    server = ScoringServer()
    with serving(server):
        yield server


def address(scorer: ScoringServer, path: str) -> str:
    return f"http://127.0.0.1:{scorer.server_port}/{path}"


@pytest.mark.parametrize("api", ["tei", "cohere"])
async def test_passages_are_ordered_by_the_rerankers_scores_if_requested(
    start: Start, scorer: ScoringServer, api: str
) -> None:
    further = {"reranker_url": address(scorer, api), "reranker_api": api, "reranker_key": "secret"}
    async with start(**further) as client:
        await client.create()
        texts = ["The cat sat on the mat near the long wall of the old house.", "The cat.", "The cat sat on a mat."]
        await client.upsert(*(pb.Document(id=str(len(text)), text=text) for text in texts))
        request = pb.SearchRequest(collection="notes", query="cat on the mat", top_k=2, explain=True)
        plain = await client.stub.Search(request)
        assert scorer.asked == []
        assert not plain.passages[0].explanation.HasField("rerank_score")
        request.rerank = True
        answer = await client.stub.Search(request)
        assert [passage.text for passage in answer.passages] == [texts[1], texts[2]]
        assert answer.passages[0].explanation.rerank_score == pytest.approx(1 / len(texts[1]))
        ((headers, asked),) = scorer.asked
        assert headers["Authorization"] == "Bearer secret"
        assert asked["query"] == "cat on the mat"
        assert len(asked.get("texts") or asked["documents"]) == 3  # more than are shown


@pytest.mark.parametrize("path", ["half", "odd", "missing", "slow", "list", "infinite", "huge", "flood", "bomb"])
async def test_a_reranker_that_does_not_score_each_text_in_time_is_an_error(scorer: ScoringServer, path: str) -> None:
    reranker = tei_reranker(RerankerOptions(address(scorer, path), timeout=1.0))
    with pytest.raises(Unavailable) as raised:
        await reranker.rerank("cat", ["one", "two"])
    assert raised.value.code == "reranker_failed"
    assert isinstance(raised.value.__cause__, TimeoutError) == (path == "slow")  # the others are left at once
    await reranker.close()


async def test_an_unreachable_reranker_does_not_affect_plain_searches(start: Start, refusal: Refusal) -> None:
    async with start(reranker_url="http://127.0.0.1:9/rerank") as client:
        await client.create()
        await client.upsert(pb.Document(id="cat", text="A cat."))
        assert await client.found("cat") == ["cat"]
        error = await refusal(client.stub.Search(pb.SearchRequest(collection="notes", query="cat", rerank=True)))
        assert (error.grpc_status, error.code) == (grpc.StatusCode.UNAVAILABLE, "reranker_failed")


async def test_the_reranker_is_not_called_without_passages(start: Start, scorer: ScoringServer) -> None:
    async with start(reranker_url=address(scorer, "tei")) as client:
        await client.create()
        answer = await client.stub.Search(pb.SearchRequest(collection="notes", query="cat", rerank=True))
        assert not answer.passages
        assert scorer.asked == []


class ReversingReranker:
    """A reranker of a user: scores passages in reverse order, times the number in its model's name."""

    closed = 0

    def __init__(self, options: RerankerOptions) -> None:
        self._weight = float(options.model)

    async def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        return [self._weight * place for place in range(len(texts))]

    async def close(self) -> None:
        ReversingReranker.closed += 1


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes this module importable as `users_rerankers`, and publishes ReversingReranker as an entry point."""
    info = tmp_path / "users_rerankers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: users_rerankers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pointsman.rerankers]\nreverse = users_rerankers:ReversingReranker\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "users_rerankers", sys.modules[__name__])


@pytest.mark.parametrize("name", ["reverse", "users_rerankers:ReversingReranker"])
async def test_a_users_reranker_is_found_by_entry_point_and_by_module(start: Start, installed: None, name: str) -> None:
    closed = ReversingReranker.closed
    async with start(reranker_api=name, reranker_model="2.5") as client:
        await client.create()
        await client.upsert(pb.Document(id="cat", text="The cat."), pb.Document(id="dog", text="The dog."))
        request = pb.SearchRequest(collection="notes", query="cat", rerank=True, explain=True)
        passages = (await client.stub.Search(request)).passages
        assert [passage.document_id for passage in passages] == ["dog", "cat"]
        assert [passage.explanation.rerank_score for passage in passages] == [2.5, 0.0]
    assert ReversingReranker.closed == closed + 1


async def test_an_unknown_reranker_api_prevents_the_start_and_lists_the_known_ones(start: Start) -> None:
    with pytest.raises(FailedPrecondition, match="RERANKER_API is 'tee', which is unknown; use one of cohere, tei"):
        async with start(reranker_api="tee"):
            pass


async def test_documents_of_the_caller_are_scored_in_their_order(start: Start, scorer: ScoringServer) -> None:
    async with start(reranker_url=address(scorer, "tei")) as client:
        answer = await client.stub.Rerank(pb.RerankRequest(query="cat", documents=["The cat.", "A cat sat there."]))
        assert list(answer.scores) == [1 / 8, 1 / 16]
        ((_, asked),) = scorer.asked
        assert (asked["query"], asked["texts"]) == ("cat", ["The cat.", "A cat sat there."])


@pytest.mark.parametrize(
    ("query", "documents", "code"),
    [
        (" ", ["a"], "empty_query"),
        ("q" * 65_537, ["a"], "query_too_large"),
        ("cat", [], "empty_document"),
        ("cat", ["a", "\n"], "empty_document"),
        ("cat", ["a"] * 1_001, "too_many_documents"),
        ("cat", ["a" * (4 * 1024 * 1024 + 1)], "document_too_large"),
    ],
)
async def test_documents_that_cannot_be_scored_are_rejected(
    start: Start, scorer: ScoringServer, refusal: Refusal, query: str, documents: list[str], code: str
) -> None:
    async with start(reranker_url=address(scorer, "tei")) as client:
        error = await refusal(client.stub.Rerank(pb.RerankRequest(query=query, documents=documents)))
        assert (error.grpc_status, error.code) == (grpc.StatusCode.INVALID_ARGUMENT, code)
        assert scorer.asked == []


async def test_without_a_reranker_documents_cannot_be_scored(start: Start, refusal: Refusal) -> None:
    async with start() as client:
        error = await refusal(client.stub.Rerank(pb.RerankRequest(query="cat", documents=["a"])))
        assert (error.grpc_status, error.code) == (grpc.StatusCode.FAILED_PRECONDITION, "no_reranker")
