"""Runs the real trainer in the engine's environment."""

import json
import os
import resource
import struct
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-engine" / "bin" / "python"
SOURCES = ROOT / "services" / "lora-server" / "src"
TINY = ("--base-model-name", "tiny", "--tokens-per-step", "600", "--threads", "1")


@dataclass(frozen=True)
class Run:
    code: int
    events: list[dict[str, Any]]
    warnings: str

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    def losses(self) -> dict[int, float]:
        return {event["step"]: event["loss"] for event in self.of("step")}

    @property
    def metrics(self) -> dict[str, float]:
        found: dict[str, float] = self.of("done")[0]["metrics"]
        return found


EXAMPLES = ROOT / "examples" / "extensions"
"""The package of docs/extending.md."""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCES), str(EXAMPLES)])}


def command(base: Path, data: Path, out: Path, *options: object) -> list[str]:
    module = ["-m", "pointsman_lora_server.training", "--base-model", str(base)]
    return [str(PYTHON), *module, "--data", str(data), "--out", str(out), *map(str, options)]


def train(
    base: Path,
    data: Path,
    out: Path,
    *options: object,
    kill_at: Callable[[dict[str, Any]], bool] = lambda event: False,
    variables: Mapping[str, str] | None = None,
    max_file_bytes: int | None = None,
) -> Run:
    """Runs a training. `kill_at` is called with each event; if it returns True, the trainer is killed with SIGKILL.

    `variables` replaces `environment()`. With `max_file_bytes`, the trainer cannot write larger files, as if the disk
    were full.
    """
    program = command(base, data, out, *options)
    with subprocess.Popen(
        program, env=variables or environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=None if max_file_bytes is None else partial(_limit_files, max_file_bytes),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        events = []
        for line in process.stdout:
            events.append(json.loads(line))
            if kill_at(events[-1]):
                process.kill()
        _, warnings = process.communicate()
    return Run(process.returncode, events, warnings)


def _limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def make_tiny_base(folder: Path, architecture: str = "llama") -> Path:
    script = Path(__file__).with_name("tiny_base.py")
    subprocess.run([str(PYTHON), str(script), str(folder), architecture], check=True, capture_output=True)
    return folder


def write_rows(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def tensors(path: Path) -> dict[str, dict[str, Any]]:
    """Returns the header of a safetensors file: JSON after eight bytes with its length."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header: dict[str, dict[str, Any]] = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    return header
