"""The requests: three short messages of a help desk's conversation, a few hundred bytes each."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gateway_load.machine import ROOT

EXAMPLES = ROOT / "examples/helpdesk/config/tasks"
LEFT_OUT = 4
"""Of four examples the gateway's classifier learns three; the load asks with the fourth."""
OPENINGS = (
    "Hello, I have a question about my trip.",
    "Good morning, is this the help desk of the railway?",
    "Hi there, I need some help with something.",
    "Hello, can you help me for a moment?",
)
REPLY = "Of course. Please tell me what it is about, and I will see what I can do for you."


@dataclass(frozen=True, slots=True)
class Texts:
    """What the classifier learns, by task, and what it is asked."""

    learned: dict[str, list[str]]
    asked: list[str]


def read_texts() -> Texts:
    learned: dict[str, list[str]] = {}
    asked = []
    for file in sorted(EXAMPLES.glob("*.jsonl")):
        texts = [str(json.loads(row)["text"]) for row in file.read_text("utf-8").splitlines()]
        learned[file.stem] = [text for place, text in enumerate(texts) if place % LEFT_OUT]
        asked += texts[::LEFT_OUT]
    return Texts(learned, asked)


def bodies(texts: list[str], count: int) -> Iterator[dict[str, object]]:
    """`count` bodies without a model, no two alike: who asks says the number of a booking."""
    chosen = random.Random(7)
    for number in range(count):
        opening = OPENINGS[number % len(OPENINGS)]
        text = f"{texts[number % len(texts)]} (My number is {chosen.randrange(10**6, 10**7)}.)"
        yield {
            "messages": [
                {"role": "user", "content": opening},
                {"role": "assistant", "content": REPLY},
                {"role": "user", "content": text},
            ],
            "max_tokens": 64,
            "temperature": 0,
        }


def with_model(asked: list[dict[str, object]], model: str, *, stream: bool = False) -> list[bytes]:
    extra: dict[str, object] = {"stream": True} if stream else {}
    return [json.dumps({"model": model, **body, **extra}, separators=(",", ":")).encode() for body in asked]


def write_lines(bodies: list[bytes], file: Path) -> Path:
    file.write_bytes(b"\n".join(bodies) + b"\n")
    return file
