from collections.abc import Callable
from typing import Any

import pytest

Cli = Callable[..., Any]


def test_the_given_fields_and_no_others_are_sent(cli: Cli, gateway: Any) -> None:
    gateway.body = {"stored": "request_log", "known_already": False}
    options = ("--rating", "0.8", "--right-task", "chat", "--right-answer", "Hello.", "--correction", "Too stiff.")

    outcome = cli("feedback", "dec_17", *options, "--url", gateway.url)

    assert (outcome.code, outcome.out) == (0, "stored in the request log\n"), outcome.err
    feedback = {"rating": 0.8, "right_task": "chat", "right_answer": "Hello.", "correction": "Too stiff."}
    assert gateway.asked == [{"path": "/v1/feedback", "decision_id": "dec_17", **feedback}]

    cli("feedback", "dec_17", "--rating", "0", "--url", gateway.url)
    assert gateway.asked[1] == {"path": "/v1/feedback", "decision_id": "dec_17", "rating": 0}


@pytest.mark.parametrize(
    ("stored", "known_already", "expected"),
    [("wal", False, "stored on disk; "), ("request_log", True, "already known: ")],
)
def test_the_place_of_storage_is_printed(
    cli: Cli, gateway: Any, stored: str, known_already: bool, expected: str
) -> None:
    gateway.body = {"stored": stored, "known_already": known_already}

    assert cli("feedback", "dec_17", "--rating", "1", "--url", gateway.url).out.startswith(expected)


@pytest.mark.parametrize("message", [[], ["--rating", "1.5"], ["--rating", "good"]])
def test_invalid_feedback_is_not_sent(cli: Cli, gateway: Any, message: list[str]) -> None:
    assert cli("feedback", "dec_17", *message, "--url", gateway.url).code == 2
    assert gateway.asked == []


def test_an_error_is_one_line_with_its_code(cli: Cli, gateway: Any) -> None:
    gateway.status = 404
    gateway.body = {"error": {"message": "no decision 'dec_0' is in the request log", "code": "unknown_decision"}}

    outcome = cli("feedback", "dec_0", "--rating", "1", "--url", gateway.url)

    assert outcome.code == 1
    assert outcome.err == "error: no decision 'dec_0' is in the request log (unknown_decision, HTTP 404)\n"
