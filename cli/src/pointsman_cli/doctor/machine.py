"""Checks this machine's hardware, and that the services, the engine environment, Valkey and the models are installed.

Also has the class `Finding`, the result of one check, which all checks of `pointsman doctor` use.
"""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from pointsman_cli.data_dir import DataDir
from pointsman_cli.engine_environment import INSTALL_ENGINE, VARIABLE, python_path
from pointsman_cli.errors import CommandError
from pointsman_cli.up.plan import server_binary

GIB = 2**30
# An engine with a 135M model takes about 2 GB; the services and Valkey together take less than 1 GB.
MEMORY_NEEDED = 3 * GIB
MEMORY_WANTED = 5 * GIB
# The base model takes 270 MB and 370 MB more while it is created; an adapter takes a few MB.
DISK_NEEDED = 1 * GIB
DISK_WANTED = 3 * GIB
# Without an engine: the embedding model's download and graph (120 MB), Valkey's files, logs and the request log.
DISK_NEEDED_WITHOUT_ENGINE = GIB // 4
DISK_WANTED_WITHOUT_ENGINE = 1 * GIB

SERVICES = ("pointsman_gateway", "pointsman_embedding", "pointsman_lab")

_VLLM_SECONDS = 180.0  # importing vllm from a cold disk is slow
_PROGRAM_SECONDS = 10.0

RETRIEVER, LORA_SERVER = "pointsman_retriever", "pointsman_lora_server"


class Level(Enum):
    """How serious a finding of `pointsman doctor` is: OK, WARN or FAIL; with a FAIL, the command exits with code 1."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check of `pointsman doctor`: what was checked, what was found, and what to do about it."""

    level: Level
    what: str  # what was checked: "memory"
    detail: str  # what was found and, if it is not enough, what to do


def ok(what: str, detail: str) -> Finding:
    return Finding(Level.OK, what, detail)


def warn(what: str, detail: str) -> Finding:
    return Finding(Level.WARN, what, detail)


def fail(what: str, detail: str) -> Finding:
    return Finding(Level.FAIL, what, detail)


@dataclass(frozen=True, slots=True)
class Machine:
    """The facts about this machine that `pointsman doctor` checks, such as free memory and disk space in bytes."""

    python: tuple[int, int]
    architecture: str  # "x86_64", "aarch64"
    cores: int  # usable by this process
    cpu_flags: frozenset[str]
    memory_available: int  # bytes; 0 if unknown
    disk_free: int  # bytes, on the file system of the data directory


def look_at_machine(data_dir: Path) -> Machine:
    return Machine(
        python=sys.version_info[:2],
        architecture=platform.machine(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        cpu_flags=_cpu_flags(),
        memory_available=_memory_available(),
        disk_free=shutil.disk_usage(_existing(data_dir)).free,
    )


def _cpu_flags() -> frozenset[str]:
    for line in _lines("/proc/cpuinfo"):
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def _memory_available() -> int:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text().splitlines()
    except OSError:
        return []


def _existing(folder: Path) -> Path:
    return next(at for at in (folder, *folder.parents) if at.exists())


def check_hardware(machine: Machine, *, engine: bool = True) -> Iterator[Finding]:
    """Yields findings on Python and disk space; with `engine`, also on processor and memory.

    `engine` says whether an inference engine is to run on this machine, which also needs more disk space.
    """
    yield _python(machine)
    if engine:
        yield _cores(machine)
        yield _instructions(machine)
        yield _memory(machine)
        yield _disk(machine, "the models", DISK_NEEDED, DISK_WANTED)
    else:
        yield _disk(machine, "the services", DISK_NEEDED_WITHOUT_ENGINE, DISK_WANTED_WITHOUT_ENGINE)


def _python(machine: Machine) -> Finding:
    version = ".".join(map(str, machine.python))
    if machine.python < (3, 11):
        return fail("python", f"{version}; it takes 3.11 or newer")
    return ok("python", version)


def _cores(machine: Machine) -> Finding:
    if machine.cores < 2:
        return warn("cores", "1; the engine and the services will wait for each other, two or more are better")
    return ok("cores", str(machine.cores))


def _instructions(machine: Machine) -> Finding:
    flags, what = machine.cpu_flags, "cpu"
    if machine.architecture != "x86_64":
        return warn(what, f"{machine.architecture}; the CPU engine was tried on x86_64 only")
    if "avx512f" in flags:
        return ok(what, "AVX512" + (" with bf16" if "avx512_bf16" in flags else ""))
    if "avx2" in flags:
        return warn(what, "AVX2 without AVX512; the engine runs, but slower")
    return fail(what, "neither AVX512 nor AVX2; vLLM's CPU engine needs one of them")


def _memory(machine: Machine) -> Finding:
    if not machine.memory_available:
        return warn("memory", "unknown on this system")
    have = f"{machine.memory_available / GIB:.1f} GiB free"
    if machine.memory_available < MEMORY_NEEDED:
        return fail("memory", f"{have}; the engine and the services need {MEMORY_NEEDED // GIB} GiB, close something")
    if machine.memory_available < MEMORY_WANTED:
        return warn("memory", f"{have}; {MEMORY_WANTED // GIB} GiB leave room for training")
    return ok("memory", have)


def _disk(machine: Machine, who: str, needed: int, wanted: int) -> Finding:
    have = f"{machine.disk_free / GIB:.1f} GiB free"
    if machine.disk_free < needed:
        return fail("disk", f"{have}; {who} need {needed / GIB:g} GiB, make room or choose another --data-dir")
    if machine.disk_free < wanted:
        return warn("disk", f"{have}; {wanted / GIB:g} GiB are better")
    return ok("disk", have)


def check_installation(
    data_dir: DataDir, engine_python: Path | None, base_model: str, *, engine: bool = True
) -> Iterator[Finding]:
    """Yields findings on services, retriever, engine, Valkey, embedding model, and with `engine` on the base model.

    `engine` says whether an engine is to run on this machine; if not, a missing vLLM is no failure. `engine_python` is
    the path of the engine's Python; None: `python_path` searches for it. `base_model` is the name of the model in the
    data directory.
    """
    yield _services()
    yield _retriever()
    if engine:
        yield check_engine(python_path(data_dir, engine_python))
    else:
        yield ok("engine", f"none installed; engines and providers with a URL need none. To run one: {INSTALL_ENGINE}")
    yield _valkey()
    if engine:
        yield _model("base model", data_dir.model(base_model), "model.safetensors")
    yield _model("embedding model", data_dir.embedding_model, "*.onnx")


def has_engine(data_dir: DataDir, engine_python: Path | None) -> bool:
    """Returns whether an inference engine (vLLM) is installed on this machine, or the user has named a Python for it.

    The result is True if `engine_python` or the environment variable POINTSMAN_ENGINE_PYTHON names a Python, even if
    this Python does not exist, or if the Python at the default path (see `python_path`) exists.
    """
    return python_path(data_dir, engine_python).exists() or bool(engine_python or os.environ.get(VARIABLE))


def check_engine(python: Path) -> Finding:
    """Checks that the lora-server is installed, and that the engine's Python can import vLLM."""
    remedy = f"{INSTALL_ENGINE}; or name another with --engine-python"
    if importlib.util.find_spec(LORA_SERVER) is None:
        return fail("engine", f"the lora-server is not installed; {INSTALL_ENGINE}")
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
        return fail(
            "services", f"not installed: {', '.join(missing)}; `pip install pointsman`, or `make env` in a clone"
        )
    return ok("services", "installed")


def _retriever() -> Finding:
    if importlib.util.find_spec(RETRIEVER) is None:
        return ok("retriever", "not installed; paths with `retrieval` need it: pip install 'pointsman[retriever]'")
    return ok("retriever", "installed")


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
        remedy = "`pointsman up` makes it if its configuration needs one (about a minute, needs pip's index)"
        return warn(what, f"{folder} is not there yet; {remedy}")
    if not any(folder.glob(weights)):
        return fail(what, f"{folder} has no {weights}; delete the folder, and `pointsman up` makes it again")
    return ok(what, str(folder))


def _output(program: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(program, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it printed nothing"])[-1].strip()
