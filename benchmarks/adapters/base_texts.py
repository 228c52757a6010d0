"""Finds out the base model's answers to a few questions, up to the first token that the model does not clearly
prefer."""

import json
from collections.abc import Mapping
from typing import Any

from benchmarks.adapters.services import BASE
from benchmarks.adapters.verdicts import BASE_MARGIN_NATS
from benchmarks.gateway_load.http_client import Target, post
from benchmarks.gateway_load.machine import CannotMeasure

QUESTIONS = (
    "What is the capital of Italy?",
    "Which day comes after Monday?",
    "How many legs does a spider have?",
    "What do bees make?",
    "Which animal says moo?",
    "What is the boiling point of water?",
)
"""Questions on which no adapter was trained, and whose correct answers contain no adapter's words."""


async def base_texts(engine: int, max_tokens: int) -> Mapping[str, str]:
    """Returns the known beginnings of the answers, by question. Raises CannotMeasure if the engine does not answer."""
    return {question: await _sure_text(engine, question, max_tokens) for question in QUESTIONS}


async def _sure_text(engine: int, question: str, max_tokens: int) -> str:
    body: dict[str, Any] = {
        "model": BASE,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 2,
    }
    answer = await post(Target(engine, BASE), body, timeout_s=120)
    if answer.status != 200:
        raise CannotMeasure(f"the engine does not answer the base model: {answer.body[:300]!r}")
    text = ""
    for token in json.loads(answer.body)["choices"][0]["logprobs"]["content"]:
        first, second = (choice["logprob"] for choice in token["top_logprobs"][:2])
        if first - second < BASE_MARGIN_NATS:
            break
        text += token["token"]
    return text
