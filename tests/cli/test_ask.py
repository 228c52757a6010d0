import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from pointsman.v1 import gateway_pb2, gateway_pb2_grpc
from pointsman_servicekit.errors import NotFound

Cli = Callable[..., Any]
GrpcServer = Callable[..., str]


def delta(content: str) -> str:
    return json.dumps({"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None}]})


RECEIPT = {
    "choices": [],
    "usage": {"prompt_tokens": 210, "completion_tokens": 12, "total_tokens": 222},
    "pointsman": {
        "path": "handbook",
        "kind": "rag",
        "cost_usd": 0.0000042,
        "seconds": {"total": 0.9},
        "sources": [{"document_id": "bicycles", "title": "Bicycles", "heading": "Bicycles > Fares", "score": 0.9}],
    },
}
STREAM = [delta("They travel "), delta("free."), json.dumps(RECEIPT), "[DONE]"]


def test_an_answer_is_streamed_and_then_explained_in_one_line(cli: Cli, gateway: Any) -> None:
    gateway.stream = STREAM

    outcome = cli("ask", "May I bring a bicycle?", "--url", gateway.url)

    assert outcome.code == 0, outcome.err
    answer, receipt = outcome.out.splitlines()
    assert answer == "They travel free."
    for part in ("policy_question 0.93", "path handbook", "rag", "policy:fixed", "first token ", "total ",
                 "210 + 12 tokens", "$0.0000042", "sources: Bicycles > Fares", "id d-17"):  # fmt: skip
        assert part in receipt
    assert gateway.asked == [
        {
            "path": "/v1/chat/completions",
            "model": "auto",
            "messages": [{"role": "user", "content": "May I bring a bicycle?"}],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


def test_a_request_that_names_its_path_has_no_task(cli: Cli, gateway: Any) -> None:
    gateway.stream = STREAM
    gateway.headers = {"x-pointsman-task": "unknown", "x-pointsman-confidence": "1.0", "x-pointsman-reason": "forced"}

    outcome = cli("ask", "x", "--model", "path:handbook", "--url", gateway.url)

    assert outcome.out.splitlines()[1].startswith("path handbook · rag · forced · ")


def test_a_streamed_answer_may_contain_unicode_line_separators(cli: Cli, gateway: Any) -> None:
    text = json.dumps(
        {"choices": [{"index": 0, "delta": {"content": "They\u2028travel\x85free."}}]}, ensure_ascii=False
    )
    gateway.stream = [text, json.dumps(RECEIPT), "[DONE]"]

    outcome = cli("ask", "May I bring a bicycle?", "--url", gateway.url)

    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("They\u2028travel\x85free.\n")


def test_a_lone_surrogate_in_an_answer_is_shown_as_a_replacement_character(cli: Cli, gateway: Any) -> None:
    gateway.stream = [delta("Fr\ud83dee."), json.dumps(RECEIPT), "[DONE]"]
    gateway.body = {**RECEIPT, "choices": [{"index": 0, "message": {"role": "assistant", "content": "\udc80Free."}}]}

    for arguments, shown in (((), "Fr\ufffdee."), (("--no-stream",), "\ufffdFree.")):
        outcome = cli("ask", "May I bring a bicycle?", *arguments, "--url", gateway.url)
        assert (outcome.code, outcome.out.splitlines()[0]) == (0, shown), outcome.err


def test_without_streaming_the_answer_is_printed_at_once_and_costs_the_same(cli: Cli, gateway: Any) -> None:
    gateway.body = {**RECEIPT, "choices": [{"index": 0, "message": {"role": "assistant", "content": "Free."}}]}

    outcome = cli("ask", "May I bring a bicycle?", "--model", "path:handbook", "--no-stream", "--url", gateway.url)

    answer, receipt = outcome.out.splitlines()
    assert answer == "Free."
    assert "$0.0000042" in receipt
    assert "first token" not in receipt
    assert (gateway.asked[0]["model"], gateway.asked[0]["stream"]) == ("path:handbook", False)


def test_an_answer_that_the_default_limit_has_cut_off_says_so(cli: Cli, gateway: Any) -> None:
    for tokens, is_cut in ((255, False), (256, True)):
        end = {"path": "plain", "cost_usd": 0.000001, "default_max_tokens": 256}
        gateway.stream = [
            delta("Yes."),
            json.dumps({**RECEIPT, "usage": {"prompt_tokens": 9, "completion_tokens": tokens}, "pointsman": end}),
            "[DONE]",
        ]
        shown = cli("ask", "x", "--url", gateway.url).out
        remark = "cut off at 256 tokens, the default: max_tokens in the path sets another limit"
        assert (remark in shown) == is_cut


def test_a_fallback_is_reported_with_the_path_that_answered(cli: Cli, gateway: Any) -> None:
    fallen_back = {**RECEIPT, "pointsman": {"path": "plain", "cost_usd": 0.000001}}
    gateway.stream = [delta("Yes."), json.dumps(fallen_back), "[DONE]"]

    assert "path handbook (answered by plain)" in cli("ask", "x", "--url", gateway.url).out


def test_a_refused_answer_is_reported_with_its_path(cli: Cli, gateway: Any) -> None:
    escalated = {**RECEIPT, "pointsman": {"path": "handbook", "cost_usd": 0.000001, "escalated_from": "small"}}
    gateway.stream = [delta("Yes."), json.dumps(escalated), "[DONE]"]

    assert "path handbook (after small, whose answer was rejected)" in cli("ask", "x", "--url", gateway.url).out


def test_the_gateways_error_is_one_line_with_its_code(cli: Cli, gateway: Any) -> None:
    gateway.status = 404
    gateway.body = {
        "error": {"message": "unknown path 'faq'; known: handbook", "code": "unknown_path", "param": "model"}
    }

    outcome = cli("ask", "x", "--model", "path:faq", "--url", gateway.url)

    assert outcome.code == 1
    assert outcome.err == "error: unknown path 'faq'; known: handbook (unknown_path, HTTP 404)\n"


def test_an_error_in_a_stream_fails_the_command(cli: Cli, gateway: Any) -> None:
    gateway.stream = [delta("They tra"), json.dumps({"error": {"message": "the engine died", "code": "engine_lost"}})]

    outcome = cli("ask", "x", "--url", gateway.url)

    assert outcome.code == 1
    assert outcome.out == "They tra\n"
    assert outcome.err == "error: the answer was cut off: the engine died (engine_lost)\n"


def test_an_incomplete_stream_fails_the_command(cli: Cli, gateway: Any) -> None:
    gateway.stream = [delta("They tra")]

    outcome = cli("ask", "x", "--url", gateway.url)

    assert outcome.code == 1
    assert outcome.err == "error: the answer was cut off: the stream ended without [DONE]\n"


@pytest.mark.parametrize("body", [{}, {"choices": []}, {"choices": None}, {"choices": ["no object"]}])
def test_an_answer_of_another_form_is_reported_in_one_line(cli: Cli, gateway: Any, body: dict[str, Any]) -> None:
    gateway.body = body

    outcome = cli("ask", "x", "--no-stream", "--url", gateway.url)

    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert outcome.err.startswith("error: the gateway's answer is not as expected: ")


@pytest.mark.parametrize(
    "event", [{"choices": None}, {"choices": [{"delta": None}]}, {"error": "text"}, {"choices": [], "usage": 5}]
)
def test_an_event_of_another_form_is_reported_in_one_line(cli: Cli, gateway: Any, event: dict[str, Any]) -> None:
    gateway.stream = [delta("They tra"), json.dumps(event), "[DONE]"]

    outcome = cli("ask", "x", "--url", gateway.url)

    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (1, "They tra\n", 1)
    assert outcome.err.startswith("error: the gateway's stream is not as expected: ")


@pytest.mark.parametrize("name", ["x-pointsman-confidence", "x-pointsman-cost-usd"])
def test_a_header_that_is_no_number_is_named(cli: Cli, gateway: Any, name: str) -> None:
    gateway.headers = {name: "high"}
    gateway.body = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Free."}}]}

    outcome = cli("ask", "x", "--no-stream", "--url", gateway.url)

    assert (outcome.code, outcome.err) == (1, f"error: the gateway's header {name} is 'high', which is no number\n")


def test_a_gateway_without_tls_is_named_with_the_reason(cli: Cli, gateway: Any) -> None:
    outcome = cli("ask", "x", "--url", gateway.url.replace("http:", "https:"))

    assert outcome.code == 1
    assert "cannot be reached: [SSL" in outcome.err


def test_if_no_gateway_runs_the_command_says_how_to_start_one(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("ask", "x", "--url", "127.0.0.1:1")

    assert outcome.code == 1
    assert outcome.err.startswith("error: no gateway answers at http://127.0.0.1:1; start one with `pointsman up")
    assert outcome.err.count("\n") == 1


def test_an_empty_question_is_rejected(cli: Cli, gateway: Any) -> None:
    outcome = cli("ask", "  ", "--url", gateway.url)

    assert outcome.code == 2
    assert gateway.asked == []


class Gateway(gateway_pb2_grpc.GatewayServicer):
    async def GenerateStream(
        self, request: gateway_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[gateway_pb2.GenerateStreamResponse]:
        if request.model != "auto":
            raise NotFound(f"unknown model '{request.model}'", code="unknown_model")
        decision = gateway_pb2.Decision(
            id="d-18", task="chat", confidence=0.8, path="plain", kind="prompt", reason="policy:fixed"
        )
        yield gateway_pb2.GenerateStreamResponse(started=gateway_pb2.Started(decision=decision))
        key = dict(context.invocation_metadata()).get("authorization", "no key")
        answer = key if request.messages[0].content == "show the key" else request.messages[0].content
        for word in ("You asked: ", answer):
            yield gateway_pb2.GenerateStreamResponse(delta=gateway_pb2.Delta(content=word))
        usage = gateway_pb2.Usage(prompt_tokens=20, completion_tokens=4)
        receipt = gateway_pb2.Receipt(usage=usage, cost_usd=0.000002, path="plain")
        yield gateway_pb2.GenerateStreamResponse(finished=gateway_pb2.Finished(finish_reason="stop", receipt=receipt))


def serve(grpc_server: GrpcServer) -> str:
    return grpc_server(
        "pointsman.v1.Gateway", lambda server: gateway_pb2_grpc.add_GatewayServicer_to_server(Gateway(), server)
    )


def test_the_output_over_grpc_is_the_same(cli: Cli, grpc_server: GrpcServer) -> None:
    outcome = cli("ask", "hello", "--grpc", "--url", serve(grpc_server))

    answer, receipt = outcome.out.splitlines()
    assert answer == "You asked: hello"
    for part in ("chat 0.80", "path plain", "prompt", "20 + 4 tokens", "$0.000002", "first token", "id d-18"):
        assert part in receipt


def test_the_api_key_of_the_environment_is_sent(
    cli: Cli, gateway: Any, grpc_server: GrpcServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POINTSMAN_API_KEY", "pm_1_secret")
    monkeypatch.setenv("OTHER_KEY", "pm_2_secret")
    gateway.body = DECISION
    cli("route", "hello", "--url", gateway.url)
    gateway.body = {"stored": "request_log", "known_already": False}
    cli("feedback", "d-1", "--rating", "1", "--url", gateway.url, "--key-env", "OTHER_KEY")
    gateway.stream = STREAM
    cli("ask", "hello", "--url", gateway.url)
    assert gateway.authorization == ["Bearer pm_1_secret", "Bearer pm_2_secret", "Bearer pm_1_secret"]
    assert "pm_1_secret" in cli("ask", "show the key", "--grpc", "--url", serve(grpc_server)).out


def test_without_a_key_no_header_is_sent_and_an_unset_variable_is_an_error(
    cli: Cli, gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POINTSMAN_API_KEY", raising=False)
    gateway.body = DECISION
    cli("route", "hello", "--url", gateway.url)
    assert gateway.authorization == [""]
    refused = cli("route", "hello", "--url", gateway.url, "--key-env", "NO_SUCH_KEY")
    assert (refused.code, "NO_SUCH_KEY holds no key" in refused.err) == (2, True)


def test_an_error_over_grpc_has_its_code_too(cli: Cli, grpc_server: GrpcServer) -> None:
    outcome = cli("ask", "hello", "--grpc", "--model", "gpt", "--url", serve(grpc_server))

    assert outcome.code == 1
    assert outcome.err == "error: unknown model 'gpt' (unknown_model)\n"


DECISION = {
    "id": "d-19",
    "task": "policy_question",
    "confidence": 0.9312,
    "path": "handbook",
    "kind": "rag",
    "reason": "policy:fixed",
    "stage": "classifier",
    "considered": [
        {"path": "voice", "outcome": "skipped", "reason": "adapter voice@prod is not resident"},
        {"path": "handbook", "outcome": "chosen", "reason": ""},
    ],
    "probabilities": {"policy_question": 0.9312, "chat": 0.05},
    "expected_cost_usd": 0.0000039,
    "costs_usd": {"handbook": 0.0000039, "voice": 0.0000125, "other": None},
    "margin": 0.8812,
    "in_distribution_score": 0.217,
    "notes": ["read in part", "in another language (fr)"],
    "revision": "0a1b2c3d4e5f6071",
}


def test_a_decision_is_shown_with_its_reasons(cli: Cli, gateway: Any) -> None:
    gateway.body = DECISION

    outcome = cli("route", "May I bring a bicycle?", "--url", gateway.url)

    assert outcome.code == 0
    for part in ("policy_question (0.931)", "handbook (rag)", "policy:fixed", "classifier", "$0.0000039", "0.050",
                 "0.881", "0.217", "read in part; in another language (fr)", "0a1b2c3d4e5f6071",
                 "expected cost", "voice ($0.0000125): adapter voice@prod is not resident", "handbook ($0.0000039)",
                 "d-19"):  # fmt: skip
        assert part in outcome.out
    assert gateway.asked[0]["path"] == "/v1/route"
    assert gateway.asked[0]["include_prompt"] is False


def test_the_prompt_is_shown_on_request(cli: Cli, gateway: Any) -> None:
    gateway.body = {**DECISION, "prompt": [{"role": "system", "content": "Answer from [these] passages."}]}

    outcome = cli("route", "x", "--prompt", "--url", gateway.url)

    assert gateway.asked[0]["include_prompt"] is True
    assert "system\nAnswer from [these] passages.\n" in outcome.out


def test_what_the_classifier_read_is_shown_on_request(cli: Cli, gateway: Any) -> None:
    gateway.body = {**DECISION, "user_words": "May [I] bring a bicycle?"}
    wrapped = "<system-reminder>Today is Monday.</system-reminder>May [I] bring a bicycle?"

    assert "read by the classifier\nMay [I] bring a bicycle?\n" in (
        cli("route", wrapped, "--explain", "--url", gateway.url).out
    )
    gateway.body = DECISION
    assert "read by the classifier\nall of it\n" in cli("route", "x", "--explain", "--url", gateway.url).out


def test_a_decision_as_json_is_the_gateways_response(cli: Cli, gateway: Any) -> None:
    gateway.body = DECISION

    assert json.loads(cli("route", "x", "--json", "--url", gateway.url).out) == DECISION
