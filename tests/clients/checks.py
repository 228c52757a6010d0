"""The requests that every client sends. Runs in the clients' environments, which contain only the client."""

import json
import sys
import traceback
from collections.abc import Callable, Mapping

BASE_MODEL = "smollm2-135m"
QUESTION = "What is the capital of France?"
SENTENCE = "Ann is 30"
CITIES = ("Paris", "Rome")
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": list(CITIES)}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def run(checks: Mapping[str, Callable[[str], None]]) -> None:
    """Runs the checks named on the command line against the URL, and prints one JSON object for each."""
    url, *names = sys.argv[1:]
    for name in names or checks:
        try:
            checks[name](url)
            error = ""
        except Exception:
            error = traceback.format_exc()
        print(json.dumps({"check": name, "error": error}), flush=True)


def is_person(value: object) -> bool:
    return isinstance(value, dict) and set(value) == {"name", "age"} and isinstance(value["age"], int)
