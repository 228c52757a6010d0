"""OpenAI's other endpoints with the real engine and OpenAI's own client."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

BASE = "smollm2-135m"
CAPITAL = "What is the capital of France?"


class Lost(BaseModel):
    intent: str
    urgency: str


@pytest.fixture
def client(help_desk: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{help_desk.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def test_a_named_models_completion_is_raw_and_a_paths_a_conversation(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"prompt": "The capital of France is", "max_tokens": 4, "temperature": 0}
    raw = client.completions.create(model=BASE, logprobs=2, echo=True, **asked)
    assert raw.choices[0].text.startswith("The capital of France is Paris")
    assert raw.choices[0].logprobs is not None
    assert len(raw.choices[0].logprobs.tokens or ()) > 4
    streamed = client.completions.create(model=BASE, stream=True, **asked)
    assert "Paris" in "".join(chunk.choices[0].text for chunk in streamed)
    answered = client.completions.create(model="path:safe_start", prompt=CAPITAL, max_tokens=16, temperature=0)
    assert answered.usage is not None
    assert raw.usage is not None
    assert answered.usage.prompt_tokens > raw.usage.prompt_tokens + 10  # a template, and the path's own prompt


def test_log_probabilities_of_a_prompt_alone(client: openai.OpenAI) -> None:
    prompt = "The capital of France is"
    got = client.completions.create(model=BASE, prompt=prompt, max_tokens=0, echo=True, logprobs=1)
    assert got.choices[0].text == prompt
    assert got.choices[0].logprobs is not None
    assert got.usage is not None
    assert len(got.choices[0].logprobs.token_logprobs or ()) == got.usage.prompt_tokens


def test_the_engine_takes_a_negative_seed(client: openai.OpenAI) -> None:
    got = client.chat.completions.create(
        model=BASE, messages=[{"role": "user", "content": CAPITAL}], temperature=1.0, seed=-1, max_tokens=6
    )
    assert got.usage is not None
    assert 0 < got.usage.completion_tokens <= 6


def test_a_response_equals_a_chat_completion(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model=BASE, messages=[{"role": "user", "content": CAPITAL}], max_tokens=24, temperature=0
    )
    response = client.responses.create(model=BASE, input=CAPITAL, max_output_tokens=24, temperature=0)
    assert response.output_text == chat.choices[0].message.content
    with client.responses.stream(model=BASE, input=CAPITAL, max_output_tokens=24, temperature=0) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert len(deltas) > 1
    assert "".join(deltas) == final.output_text == response.output_text
    assert chat.usage is not None
    assert final.usage is not None
    assert final.usage.total_tokens == chat.usage.total_tokens


def test_a_schema_applies_on_both_endpoints(client: openai.OpenAI) -> None:
    text = "My umbrella was left on the 9:15. Answer in JSON."
    chat = client.chat.completions.parse(
        model=BASE, messages=[{"role": "user", "content": text}], response_format=Lost, max_tokens=120, temperature=0
    )
    response = client.responses.parse(model=BASE, input=text, text_format=Lost, max_output_tokens=120, temperature=0)
    assert chat.choices[0].message.parsed is not None
    assert response.output_parsed == chat.choices[0].message.parsed
    assert list(json.loads(response.output_text)) == ["intent", "urgency"]


def test_logprobs_and_choices_of_the_real_engine_are_read(client: openai.OpenAI) -> None:
    got = client.chat.completions.create(
        model=BASE, messages=[{"role": "user", "content": CAPITAL}], n=2, logprobs=True, top_logprobs=3, max_tokens=5,
        seed=3, temperature=1.0,
    )  # fmt: skip
    assert [choice.index for choice in got.choices] == [0, 1]
    for choice in got.choices:
        assert choice.logprobs is not None
        assert all(len(token.top_logprobs) == 3 for token in choice.logprobs.content or ())
    assert got.usage is not None
    assert got.usage.completion_tokens == 10


def test_texts_are_embedded_without_the_engine(client: openai.OpenAI) -> None:
    texts = ["Are bicycles allowed?", "May I take my bike?", "Tell me a joke"]
    got = client.embeddings.create(model="minilm", input=texts)
    one, two, three = (data.embedding for data in got.data)

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert cosine(one, two) > cosine(one, three) + 0.2
    assert client.models.retrieve(got.model).id == got.model
