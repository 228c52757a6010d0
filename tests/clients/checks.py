"""The requests that every client sends. It runs in the clients' own environments, so it imports only the standard
library."""

import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

CHAT = "chat completions"
RESPONSES = "responses"
MESSAGES = "messages"
AGENT = "chat completions, by an agent"
EMBEDDINGS = "embeddings"
RERANK = "rerank"
GRPC = "gRPC"
REFLECTION = "gRPC reflection"
PLAIN = "plain"
STREAMING = "streaming"
TOOLS = "tools"
STREAMED_TOOLS = "streamed tools"
TOOL_RESULTS = "tool results"
STRUCTURED = "structured output"

BASE_MODEL = "smollm2-135m"
EMBEDDING_MODEL = "minilm"
RERANKER = "reranker"
"""The scripted engine's reranker, for which the longest document is the best."""
QUESTION = "What is the capital of France?"
SENTENCE = "Ann is 30"
WEATHER_QUESTION = "What is the weather in Paris?"
CITIES = ("Paris", "Rome")
DOCUMENTS = ("Rome", "Paris is the capital of France.", "Lyon is large.")
CITIES_QUESTION = "What is the weather in Paris and in Rome?"
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": list(CITIES)}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
OPENAI_TOOL: dict[str, Any] = {"type": "function", "function": WEATHER}
OPENAI_FORMAT: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {"name": "person", "schema": PERSON, "strict": True},
}
TIME: dict[str, Any] = {
    "name": "get_time",
    "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
}


def run(checks: Mapping[str, Mapping[str, Callable[[str], None]]]) -> None:
    """Runs the checks of each API against the URL on the command line, and prints one JSON object for each check.

    If names of checks follow the URL, only those are run.
    """
    url, *names = sys.argv[1:]
    for api, checks_of_api in checks.items():
        for name, check in checks_of_api.items():
            if names and name not in names:
                continue
            started = time.monotonic()
            try:
                check(url)
                error = ""
            except Exception:
                error = traceback.format_exc()
            seconds = round(time.monotonic() - started, 1)
            print(json.dumps({"api": api, "check": name, "seconds": seconds, "error": error}), flush=True)


def is_person(value: object) -> bool:
    return isinstance(value, dict) and set(value) == {"name", "age"} and isinstance(value["age"], int)


def weather_call(id: str, city: str) -> dict[str, Any]:
    """Returns an assistant's call of `get_weather`, in the format of chat completions."""
    return {"id": id, "type": "function", "function": {"name": "get_weather", "arguments": json.dumps({"city": city})}}


def parallel_calls() -> list[dict[str, Any]]:
    """Returns a conversation in which the assistant has twice called the function for two cities at once.

    A model this small makes two calls at once only if earlier turns show it how.
    """
    messages: list[dict[str, Any]] = []
    for turn, (one, other) in enumerate((CITIES, CITIES[::-1])):
        calls = [weather_call(f"call_{turn}{n}", city) for n, city in enumerate((one, other))]
        messages += [
            {"role": "user", "content": f"Weather in {one} and {other}?"},
            {"role": "assistant", "content": "", "tool_calls": calls},
        ]
    return [*messages, {"role": "user", "content": "Weather in Paris and Rome?"}]
