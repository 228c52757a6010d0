"""Guidance's model class for OpenAI's API, which always streams."""

import json
from typing import Any

import guidance
from checks import BASE_MODEL, CHAT, PERSON, QUESTION, SENTENCE, STREAMING, STRUCTURED, is_person, run


def ask(url: str, model: str, text: str, output: Any) -> Any:
    state = guidance.models.OpenAI(model, base_url=f"{url}/v1", api_key="none", echo=False)
    with guidance.user():
        state += text
    with guidance.assistant():
        state += output
    return state["answer"]


def streaming(url: str) -> None:
    text = ask(url, BASE_MODEL, QUESTION, guidance.gen("answer", max_tokens=12))
    assert text.strip(), "no answer"


def structured(url: str) -> None:
    text = ask(url, "auto", SENTENCE, guidance.json("answer", schema=PERSON))
    assert is_person(json.loads(text)), text


if __name__ == "__main__":
    run({CHAT: {STREAMING: streaming, STRUCTURED: structured}})
