"""In requests that real clients sent, the classifier reads only the user's question.

`make record-clients` recorded the requests; the middle of long ones is cut out.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pointsman_gateway.classification.rules import RuleMatcher
from pointsman_gateway.classification.stage import Classification
from pointsman_gateway.classification.user_words import UserWordsFinder
from pointsman_gateway.classification.wrappers import known_wrappers
from pointsman_gateway.domain import Message, Request

from tests.gateway.doubles.classifier import ScriptedClassifier

RECORDED = Path(__file__).with_name("recorded_requests")
QUESTION = "May I take my bicycle on the train?"
ANSWER = "Yes, in the last coach."
"""The scripted engine's answer to every request of the recording."""
OTHER_WORDS = {"Hi", ANSWER}
"""Other texts that a recording's program or the engine has written in the user's role."""
WRAPPERS = {
    "aider": {"aider"},
    "autogen": {"autogen"},
    "claude-code": {"claude-code"},
    "cline": set[str](),
    "codex": {"codex"},
    "continue": set[str](),
    "crewai": {"crewai"},
    "dspy": {"dspy"},
    "langchain": {"langchain-condense", "langchain-refine"},
    "llama-index": {"llamaindex", "llamaindex-rewrite", "llamaindex-condense", "langchain-condense"},
    "opencode": {"opencode"},
    "qwen-code": {"claude-code", "qwen-code"},
    "smolagents": {"smolagents"},
}
"""By client, the entries of the wrappers' catalog that its requests need."""


def recordings() -> Iterator[Any]:
    for file in sorted(RECORDED.glob("*.json")):
        for number, messages in enumerate(json.loads(file.read_text("utf-8"))["conversations"]):
            yield pytest.param(tuple(Message(**message) for message in messages), id=f"{file.stem} {number}")


@pytest.mark.parametrize("messages", [*recordings()])
def test_of_a_recorded_request_only_the_users_words_are_read(messages: tuple[Message, ...]) -> None:
    stage = Classification(RuleMatcher({}), ScriptedClassifier({}))
    turns = stage.turns(Request("auto", messages))
    words = {turn.text for turn in turns}
    assert words <= {QUESTION, *OTHER_WORDS}
    assert QUESTION in words or words == {ANSWER}
    said = {turn.said_before.removesuffix("</code>") for turn in turns}
    assert said <= {"", "Hello.", ANSWER}


@pytest.mark.parametrize("client", WRAPPERS)
def test_the_catalog_has_what_each_client_writes(client: str) -> None:
    conversations = json.loads((RECORDED / f"{client}.json").read_text("utf-8"))["conversations"]
    finder = UserWordsFinder((), known_wrappers())
    texts = [message["content"] for messages in conversations for message in messages if message["role"] == "user"]
    assert {name for text in texts for name in finder.find(text).wrappers} & {
        wrapper.name for wrapper in known_wrappers()
    } == WRAPPERS[client]


def test_each_recording_is_of_a_client_that_is_listed_here() -> None:
    assert {file.stem for file in RECORDED.glob("*.json")} == WRAPPERS.keys()
