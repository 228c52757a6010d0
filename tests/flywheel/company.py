"""An example with two tasks, run by `pointsman up` with the real engine, gateway, lora-server and Valkey."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.flywheel.messages import deciding, traffic
from tests.running_example import EXAMPLE, POINTSMAN, ROOT, run_example

_PATHS = {
    "sort_adapter": {"model": "smollm2-135m", "adapter": "sort@prod", "max_tokens": 16, "temperature": 0},
    "sort_prompt": {
        "model": "smollm2-135m",
        "strategies": [{"zero_shot": {"prompt": "sort.txt"}}],
        "max_tokens": 16,
        "temperature": 0,
    },
    "small_talk": {"model": "smollm2-135m", "max_tokens": 16, "temperature": 0},
}
_TASKS = {
    "default_path": "small_talk",
    "learning": {"tasks": ["sort"], "anonymous_consent": True},
    "tasks": {
        "sort": {
            "examples": "tasks/sort.jsonl",
            "policy": {"fixed": "sort_adapter"},
            "rules": [{"name": "inbox", "metadata": {"source": "inbox"}}],
            "metric": {"exact": True},
            "flywheel": {
                "student": "sort_adapter",
                "teacher": "sort_prompt",
                "eval_data": "../deciding.jsonl",
                "data": {"examples": False, "heldout_share": 0.1},
                "training": {
                    "rank": 8, "learning_rate": 0.003, "epochs": 8, "tokens_per_step": 256, "max_minutes": 6,
                },
                "gates": {"min_rows": 20, "min_gain": 0.1, "max_regressions": 0.1},
                "canary": {"weight": 0.5, "min_requests": 8, "max_minutes": 8},
            },
        },
        "chat": {"examples": "tasks/chat.jsonl", "policy": {"fixed": "small_talk"}},
    },
}  # fmt: skip
_CHAT = ("Hello there", "How are you today?", "Tell me a joke", "What is your name?", "Do you like tea?", "Good night")


@dataclass(frozen=True)
class Company:
    url: str
    home: Path
    run: dict[str, Any]
    """The content of `run.json`: addresses and process ids."""

    def command(self, *arguments: object) -> list[str]:
        return [str(POINTSMAN), *map(str, arguments), "--data-dir", str(self.home)]

    def tell(self, *arguments: object) -> Any:
        """Runs a `pointsman` command and returns its JSON output."""
        done = subprocess.run(self.command(*arguments, "--json"), capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def write(folder: Path) -> Path:
    """Writes the example. Its first adapter was trained on another company's messages, and does not know these
    desks.
    """
    config = folder / "config"
    (config / "prompts").mkdir(parents=True)
    (config / "tasks").mkdir()
    for name, content in (("paths", {"paths": _PATHS}), ("tasks", _TASKS)):
        (config / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    shutil.copy(EXAMPLE / "config" / "models.yaml", config)
    (config / "prompts" / "sort.txt").write_text(
        'Answer with the desk, as {"desk": ...}: lost, refund, complaint or thanks.'
    )
    _write_lines(config / "tasks" / "sort.jsonl", [{"text": message.text} for message in traffic()[::3]])
    _write_lines(config / "tasks" / "chat.jsonl", [{"text": text} for text in _CHAT])
    _write_lines(folder / "deciding.jsonl", [{"text": one.text, "output": one.right} for one in deciding()])
    shutil.copytree(EXAMPLE / "adapters" / "triage", folder / "adapters" / "sort")
    about = {
        "base_model": "smollm2-135m",
        "config": "config",
        "adapters": {"sort": {"folder": "adapters/sort", "alias": "prod"}},
    }
    (folder / "pointsman.yaml").write_text(yaml.safe_dump(about))
    return folder


@contextmanager
def running(folder: Path) -> Iterator[Company]:
    with run_example(write(folder / "company"), folder / "home") as it:
        yield Company(it.url, it.home, it.run)


def _write_lines(file: Path, rows: list[dict[str, str]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
