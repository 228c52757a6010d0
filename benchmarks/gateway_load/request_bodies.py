"""Request bodies: three short messages of a help desk's conversation, a few hundred bytes each."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gateway_load.machine import ROOT

EXAMPLES = ROOT / "examples/helpdesk/config/tasks"
HELD_OUT_EVERY = 4
"""Every fourth example is held out as a test text; the classifier is trained on the others."""
OPENINGS = (
    "Hello, I have a question about my trip.",
    "Good morning, is this the help desk of the railway?",
    "Hi there, I need some help with something.",
    "Hello, can you help me for a moment?",
)
REPLY = "Of course. Please tell me what it is about, and I will see what I can do for you."


@dataclass(frozen=True, slots=True)
class TaskTexts:
    """The classifier's training texts by task, and the test texts."""

    training: dict[str, list[str]]
    test: list[str]


def read_texts() -> TaskTexts:
    training: dict[str, list[str]] = {}
    test: list[str] = []
    for file in sorted(EXAMPLES.glob("*.jsonl")):
        texts = [str(json.loads(row)["text"]) for row in file.read_text("utf-8").splitlines()]
        training[file.stem] = [text for number, text in enumerate(texts) if number % HELD_OUT_EVERY]
        test += texts[::HELD_OUT_EVERY]
    return TaskTexts(training, test)


def request_bodies(texts: list[str], count: int) -> Iterator[dict[str, object]]:
    """Yields `count` bodies without a model; each has a different booking number, so no two are equal."""
    generator = random.Random(7)
    for number in range(count):
        opening = OPENINGS[number % len(OPENINGS)]
        text = f"{texts[number % len(texts)]} (My number is {generator.randrange(10**6, 10**7)}.)"
        yield {
            "messages": [
                {"role": "user", "content": opening},
                {"role": "assistant", "content": REPLY},
                {"role": "user", "content": text},
            ],
            "max_tokens": 64,
            "temperature": 0,
        }


def encode_bodies(bodies: list[dict[str, object]], model: str, *, stream: bool = False) -> list[bytes]:
    extra: dict[str, object] = {"stream": True} if stream else {}
    return [json.dumps({"model": model, **body, **extra}, separators=(",", ":")).encode() for body in bodies]


def write_lines(bodies: list[bytes], file: Path) -> Path:
    file.write_bytes(b"\n".join(bodies) + b"\n")
    return file
