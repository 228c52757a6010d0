"""A small complete configuration that a test modifies before it is written."""

import copy
import json
from pathlib import Path
from typing import Any

import yaml

PRICES = {"prompt": 1.0, "cached": 0.25, "completion": 4.0}
"""Dollars per million tokens."""

_MODELS = {
    "prices_as_of": "2026-11-01",
    "models": {"tiny": {"context_window": 4096, "usd_per_million_tokens": PRICES}},
    "engines": {"local": {"model": "tiny", "lora_server": "127.0.0.1:1"}},
    "retrieval": {"usd_per_search": 0.00005, "usd_per_embedding": 0},
}

_PATHS = {
    "triage_adapter": {"model": "tiny", "adapter": "triage@prod", "max_tokens": 60, "temperature": 0},
    "triage_few_shot": {
        "model": "tiny",
        "strategies": [{"few_shot": {"task": "triage", "count": 2, "selection": "knn", "prompt": "triage.txt"}}],
    },
    "handbook": {
        "model": "tiny",
        "strategies": [
            {"zero_shot": {"prompt": "answer.txt"}},
            {"retrieval": {"collection": "handbook", "top_k": 2, "prompt": "passages.txt"}},
        ],
    },
    "letter": {
        "model": "tiny",
        "adapter": "voice@prod",
        "strategies": [{"retrieval": {"collection": "handbook", "top_k": 1, "prompt": "passages.txt"}}],
    },
    "small_talk": {"model": "tiny", "strategies": [{"persona": {"prompt": "persona.txt"}}], "temperature": 0.7},
    "safe_start": {
        "model": "tiny",
        "strategies": [
            {"chain_of_thought": {"prompt": "steps.txt"}},
            {
                "retrieval": {"collection": "handbook", "top_k": 1, "prompt": "passages.txt", "required": False},
            },
        ],
    },
}

_TASKS = {
    "triage": {
        "examples": "tasks/triage.jsonl",
        "policy": {"fixed": "triage_adapter"},
        "fallback": ["triage_few_shot"],
        "rules": [{"name": "inbox", "metadata": {"source": "inbox"}}],
    },
    "policy": {"examples": "tasks/policy.jsonl", "policy": {"fixed": "handbook"}},
    "chat": {"examples": "tasks/chat.jsonl", "policy": {"fixed": "small_talk"}},
}

_PROMPTS = {
    "triage.txt": "Sort the message.",
    "answer.txt": "Answer from the handbook.",
    "persona.txt": "You are Wren.",
    "steps.txt": "Think step by step.",
    "passages.txt": "{% for p in passages %}[{{ p.title }}] {{ p.text }}\n{% else %}Nothing found.\n{% endfor %}",
}

_EXAMPLES: dict[str, list[tuple[str, str | None]]] = {
    "triage": [
        ("I left my umbrella on the 9:15 to Saltby, please find it", '{"intent": "lost_item"}'),
        ("My wallet was forgotten on the evening train yesterday", '{"intent": "lost_item"}'),
        ("Please pay back my ticket from Monday, booking AB12", '{"intent": "refund"}'),
        ("I want my money back for the cancelled booking CD34", '{"intent": "refund"}'),
        ("You charged my card twice for booking EF56, return one payment", '{"intent": "payment_problem"}'),
        ("My train on Friday was 70 minutes late, I claim compensation", '{"intent": "delay_claim"}'),
    ],
    "policy": [
        ("Are bicycles allowed on the train?", None),
        ("What are the rules for taking a dog on board?", None),
        ("How much luggage may a passenger bring?", None),
        ("Is smoking permitted at the stations?", None),
        ("Until when is an off-peak ticket valid?", None),
        ("Do children under five need a ticket?", None),
    ],
    "chat": [
        ("Hello, how are you today?", None),
        ("Good morning! Nice to meet you", None),
        ("Tell me a joke", None),
        ("What is your name?", None),
        ("You are so friendly, thank you!", None),
        ("Do you like music?", None),
    ],
}

_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # libyaml's is five times as fast

IN_TRIAGE = "I left my umbrella on the 9:15 to Saltby, please find it"
IN_POLICY = "Are bicycles allowed on the train?"
IN_CHAT = "Hello, how are you today?"
IN_NONE = "SELECT invoice.total FROM invoice INNER JOIN customer USING (customer_id)"
"""A text that belongs to no task."""


class ConfigFolder:
    """The configuration's files as Python data; `write` creates the files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models: dict[str, Any] = copy.deepcopy(_MODELS)
        self.paths: dict[str, Any] = copy.deepcopy(_PATHS)
        self.tasks: dict[str, Any] = copy.deepcopy(_TASKS)
        self.rest_of_tasks: dict[str, Any] = {"default_path": "safe_start"}
        self.access: dict[str, Any] = {}
        self.prompts: dict[str, str] = dict(_PROMPTS)
        self.examples = copy.deepcopy(_EXAMPLES)

    def write(self) -> Path:
        (self.folder / "prompts").mkdir(parents=True, exist_ok=True)
        (self.folder / "tasks").mkdir(exist_ok=True)
        self._write_yaml("models.yaml", self.models)
        self._write_yaml("paths.yaml", {"paths": self.paths})
        self._write_yaml("tasks.yaml", {**self.rest_of_tasks, "tasks": self.tasks})
        if self.access:
            self._write_yaml("access.yaml", self.access)
        for name, text in self.prompts.items():
            (self.folder / "prompts" / name).write_text(text)
        for task, rows in self.examples.items():
            lines = [json.dumps({"text": text} | ({"output": output} if output else {})) for text, output in rows]
            (self.folder / "tasks" / f"{task}.jsonl").write_text("\n".join(lines) + "\n")
        return self.folder

    def _write_yaml(self, name: str, data: Any) -> None:
        try:
            written = yaml.dump(data, Dumper=_Dumper, sort_keys=False)
        except UnicodeEncodeError:  # libyaml writes no half of a surrogate pair
            written = yaml.safe_dump(data, sort_keys=False)
        (self.folder / name).write_text(written)
