"""Instructor, by a tool call and by the engine's structured output."""

import instructor
import openai
from checks import BASE_MODEL, CHAT, SENTENCE, STRUCTURED, TOOLS, run
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


def extract(url: str, mode: instructor.Mode, model: str) -> Person:
    client = instructor.from_openai(openai.OpenAI(base_url=f"{url}/v1", api_key="none"), mode=mode)
    return client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": SENTENCE}],
        response_model=Person,
        max_retries=0,
        max_tokens=200,
        temperature=0,
    )


def tools(url: str) -> None:
    assert extract(url, instructor.Mode.TOOLS, BASE_MODEL).name


def structured(url: str) -> None:
    assert extract(url, instructor.Mode.JSON_SCHEMA, "auto").name


if __name__ == "__main__":
    run({CHAT: {TOOLS: tools, STRUCTURED: structured}})
