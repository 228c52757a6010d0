"""Outlines, with OpenAI's structured output and with vLLM's own parameter."""

import outlines
from checks import BASE_MODEL, CHAT, PLAIN, QUESTION, SENTENCE, STREAMING, STRUCTURED, run
from openai import OpenAI
from outlines.types import Regex
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


def client(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def plain(url: str) -> None:
    text = outlines.from_openai(client(url), BASE_MODEL)(QUESTION, max_tokens=12, temperature=0)
    assert "Paris" in text, text


def streaming(url: str) -> None:
    text = "".join(outlines.from_openai(client(url), BASE_MODEL).stream(QUESTION, max_tokens=12, temperature=0))
    assert "Paris" in text, text


def structured(url: str) -> None:
    text = outlines.from_openai(client(url), "auto")(SENTENCE, Person, temperature=0)
    assert Person.model_validate_json(text), text
    vllm = outlines.from_vllm(client(url), BASE_MODEL)
    number = vllm("How old is Ann?", Regex("[1-9][0-9]"), max_tokens=8, temperature=0)
    assert 10 <= int(number) <= 99, number


if __name__ == "__main__":
    run({CHAT: {PLAIN: plain, STREAMING: streaming, STRUCTURED: structured}})
