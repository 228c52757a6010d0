"""Bring your own vLLM: start one by its own command line, put Pointsman in front of it, then attach a lora-server to it
and move an alias under load. Checks every answer; exits with 1 if one is wrong."""

import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from pointsman_cli.data_dir import DataDir
from pointsman_cli.up.plan import redis_url
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
BIN = Path(sys.executable).parent
ENGINE_PYTHON = ROOT / ".venv-engine/bin/python"
MODELS = ROOT / ".pointsman/models"
GUARD = ROOT / "services/lora-server/src/pointsman_lora_server/engine/guard"
ADAPTERS = {name: ROOT / "examples/helpdesk/adapters" / name for name in ("triage", "voice")}
BASE, PROVIDED = "llama-3.1-8b", "gpt-4o-mini"
"""The names in the configuration. One vLLM serves its small model under both, and so plays the provider too."""
MAX_START_SECONDS = 420
MESSAGE = "I left my umbrella on the 9:15 to Saltby, please look for it"
TOKENS = 24
WORKERS, MOVES, ANSWERS_PER_MOVE = 6, 6, 12
CANNOT = 2

console = Console(width=100, highlight=False, soft_wrap=False)


class DemoError(Exception):
    """A step of the demo went wrong; the message says what."""


@dataclass
class Load:
    """Workers that send one request after another to an alias, until they are stopped."""

    url: str
    alias: str
    expected: Mapping[str, str]
    """The answer of each version."""
    answers: Counter[str] = field(default_factory=Counter)
    """Right ones, by version."""
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def has_answered(self, version: str, times: int) -> bool:
        """Returns whether this version has answered so many times, or something has gone wrong."""
        return self.answers[version] >= times or bool(self.wrong or self.failed)

    @contextmanager
    def running(self) -> Iterator[None]:
        stop = threading.Event()
        workers = [threading.Thread(target=self._work, args=(stop,)) for _ in range(WORKERS)]
        for worker in workers:
            worker.start()
        try:
            yield
        finally:
            stop.set()
            for worker in workers:
                worker.join()

    def _work(self, stop: threading.Event) -> None:
        with httpx.Client(timeout=120) as client:
            while not stop.is_set():
                try:
                    version, text = ask(self.url, self.alias, client)
                except (DemoError, httpx.HTTPError) as error:
                    self.failed.append(str(error))
                    continue
                if self.expected.get(version) == text:
                    self.answers[version] += 1
                else:
                    self.wrong.append(f"{version}: {text!r}")


def main() -> int:
    if not (ENGINE_PYTHON.exists() and (MODELS / "smollm2-135m").is_dir()):
        console.print("run `make env models` first")
        return CANNOT
    try:
        with ExitStack() as stack:
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pointsman-own-")))
            run_demo(stack, home)
    except DemoError as error:
        console.print(f"[red]wrong:[/] {error}", markup=True)
        return 1
    console.print("\nEvery answer was the right one.")
    return 0


def run_demo(stack: ExitStack, home: Path) -> None:
    secret = secrets.token_hex(16)
    console.print("[bold]1. A vLLM by its own command line, with two adapters and our guard as middleware[/]")
    vllm = stack.enter_context(bare_vllm(home, secret))

    console.print("\n[bold]2. Pointsman in front of it, with examples/minimal[/]")
    config = home / "minimal"
    shutil.copytree(HERE, config)
    url = stack.enter_context(pointsman(home, config, vllm))
    _, base = ask(vllm, BASE)
    for model, adapter in (("path:triage", "triage"), ("voice", "voice")):
        _, direct = ask(vllm, adapter)
        _, text = ask(url, model)
        check(text == direct != base, f"{model} answers {text!r}, and vLLM's {adapter} {direct!r}")
        show(f"{model}: {text}")

    console.print(
        "\n[bold]3. A lora-server attached to it; the gateway reads the edited configuration while it runs[/]"
    )
    server = stack.enter_context(lora_server(home, vllm, secret))
    to_server = ("--lora-server", server)
    registered = (command("adapters", "register", "desk", str(ADAPTERS[name]), *to_server) for name in ADAPTERS)
    versions = [output.split()[-1] for output in registered]
    command("adapters", "promote", "desk@live", versions[0], *to_server)
    use_lora_server(config / "pointsman.yaml", server)
    wait_until(lambda: ask(url, "path:triage")[0] == versions[0], "the edited configuration is not in use")
    expected = {}
    for version in versions:
        answered, expected[version] = ask(url, version)
        check(answered == version, f"{version} was asked, and {answered} answered")
        show(f"{version}: {expected[version]}")
    check(len(set(expected.values())) == len(versions), "both versions answer the same")

    console.print(f"\n[bold]4. desk@live moves {MOVES} times, while {WORKERS} clients ask it without a pause[/]")
    load = Load(url, "desk@live", expected)
    with load.running():
        for number in range(1, MOVES + 1):
            version = versions[number % 2]
            answers = load.answers[version] + ANSWERS_PER_MOVE
            command("adapters", "promote", "desk@live", version, *to_server)
            wait_until(partial(load.has_answered, version, answers), f"desk@live does not answer by {version}")
            answered, _ = ask(url, "desk@live")
            check(answered == version, f"desk@live was moved to {version}, and {answered} answered")
    for version in versions:
        show(f"{version}: {load.answers[version]} answers")
    show(f"{len(load.wrong)} answers with wrong tokens, {len(load.failed)} failed requests")
    check(not load.wrong, f"wrong tokens, such as {load.wrong[:1]}")
    check(not load.failed, f"failed requests, such as {load.failed[:1]}")
    check(all(load.answers[version] for version in versions), "not every version has answered")


@contextmanager
def bare_vllm(home: Path, secret: str) -> Iterator[str]:
    """Runs vLLM with the two adapters in --lora-modules and yields its URL."""
    url = f"http://{free_address()}"
    arguments = [
        *("--model", str(MODELS / "smollm2-135m"), "--served-model-name", BASE, PROVIDED),
        *("--port", url.rpartition(":")[2], "--host", "127.0.0.1", "--dtype", "float32", "--max-model-len", "2048"),
        *("--enable-lora", "--max-loras", "2", "--max-cpu-loras", "6", "--max-lora-rank", "8"),
        *("--lora-modules", *(f"{name}={folder}" for name, folder in ADAPTERS.items())),
        *("--middleware", "pointsman_engine_guard.Guard"),
    ]
    show(f"vllm serve {shlex.join(arguments)}".replace(f"{ROOT}/", ""))
    environment = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_COMPUTE_NANS_IN_LOGITS": "1",
        "PYTHONPATH": str(GUARD),  # or `pip install pointsman-engine-guard` in vLLM's environment
        "POINTSMAN_ENGINE_SECRET": secret,
    }
    # What `vllm serve` runs; that program itself does not find its version in the wheel for CPUs.
    program = [str(ENGINE_PYTHON), "-m", "vllm.entrypoints.openai.api_server", *arguments]
    with process(program, home / "vllm.log", environment) as vllm:
        wait_until(lambda: httpx.get(f"{url}/health").is_success, "vLLM did not start", vllm, home / "vllm.log")
        yield url


@contextmanager
def pointsman(home: Path, config: Path, vllm: str) -> Iterator[str]:
    """Runs `pointsman up` on the configuration and yields the gateway's URL."""
    (home / "models").symlink_to(MODELS)
    http, grpc = free_address(), free_address()
    program = [str(BIN / "pointsman"), "up", str(config), "--data-dir", str(home), "--http", http, "--grpc", grpc]
    environment = {"VLLM_URL": vllm, "OPENAI_URL": vllm, "OPENAI_API_KEY": "any"}
    with process(program, home / "up.log", environment, stop=signal.SIGINT) as up:
        wait_until((home / "run.json").exists, "pointsman up did not start", up, home / "up.log")
        yield f"http://{http}"


@contextmanager
def lora_server(home: Path, vllm: str, secret: str) -> Iterator[str]:
    """Runs a lora-server that is attached to the vLLM and yields its gRPC address."""
    address = free_address()
    environment = {
        "POINTSMAN_LORA_LISTEN": address,
        "POINTSMAN_LORA_METRICS_LISTEN": free_address(),
        "POINTSMAN_LORA_REDIS_URL": redis_url(DataDir(home)),
        "POINTSMAN_LORA_STORE": str(home / "adapters"),
        "POINTSMAN_LORA_JOBS": str(home / "jobs"),
        "POINTSMAN_LORA_ENGINE_URL": vllm,
        "POINTSMAN_LORA_ENGINE_SECRET": secret,
        "POINTSMAN_LORA_ENGINE_PYTHON": str(ENGINE_PYTHON),
        "POINTSMAN_LORA_BASE_MODEL": str(MODELS / "smollm2-135m"),
        "POINTSMAN_LORA_SERVED_MODEL_NAME": BASE,
        "POINTSMAN_LORA_MAX_MODEL_LEN": "2048",
    }
    log = home / "lora-server.log"
    show(f"POINTSMAN_LORA_ENGINE_URL={vllm} POINTSMAN_LORA_ENGINE_SECRET=... python -m pointsman_lora_server")
    with process([sys.executable, "-m", "pointsman_lora_server"], log, environment) as server:
        attached = "attached to the engine"
        wait_until(lambda: attached in log.read_text(), "the lora-server is not attached", server, log)
        yield address


def use_lora_server(file: Path, server: str) -> None:
    """Has the configuration use the lora-server, and the path "triage" its alias."""
    written = file.read_text()
    edited = written.replace("adapter: triage", "adapter: desk@live").replace(
        'url: "${VLLM_URL:-http://127.0.0.1:8000}", adapters: discover', f'lora_server: "{server}"'
    )
    check(edited.count(server) == 1 and "desk@live" in edited, "examples/minimal/pointsman.yaml has other lines")
    file.write_text(edited)


def ask(url: str, model: str, client: Any = httpx) -> tuple[str, str]:
    """Returns the model that answered, and its answer. Raises DemoError unless the status is 200."""
    body = {"model": model, "messages": [{"role": "user", "content": MESSAGE}], "temperature": 0, "max_tokens": TOKENS}
    response = client.post(f"{url}/v1/chat/completions", json=body, timeout=120)
    check(response.status_code == 200, f"{model}: {response.status_code} {response.text[:300]}")
    answer = response.json()
    return str(answer["model"]), str(answer["choices"][0]["message"]["content"])


def command(*arguments: str) -> str:
    """Runs `pointsman ...` and returns its output."""
    done = subprocess.run([str(BIN / "pointsman"), *arguments], capture_output=True, text=True, cwd=ROOT, check=False)
    check(done.returncode == 0, f"pointsman {shlex.join(arguments)}: {done.stderr or done.stdout}")
    show(f"pointsman {shlex.join(arguments)}".replace(f"{ROOT}/", ""))
    return done.stdout


@contextmanager
def process(
    program: Sequence[str], log: Path, environment: Mapping[str, str], stop: signal.Signals = signal.SIGTERM
) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("wb") as output:
        running = subprocess.Popen(program, cwd=ROOT, stdout=output, stderr=output, env=os.environ | dict(environment))
    try:
        yield running
    finally:
        running.send_signal(stop)
        running.wait(timeout=120)


def wait_until(
    holds: Callable[[], object],
    problem: str,
    running: "subprocess.Popen[bytes] | None" = None,
    log: Path | None = None,
) -> None:
    """Waits until `holds` returns a true value; a request that fails in it counts as false.

    Raises DemoError with `problem` if that takes too long, or if the process `running` has ended.
    """
    deadline = time.monotonic() + MAX_START_SECONDS
    while True:
        with suppress(DemoError, httpx.HTTPError):
            if holds():
                return
        ended = running is not None and running.poll() is not None
        if ended or time.monotonic() > deadline:
            raise DemoError(problem + (f":\n{log.read_text()[-2000:]}" if log else ""))
        time.sleep(0.3)


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def check(holds: bool, problem: str) -> None:
    if not holds:
        raise DemoError(problem)


def show(line: str) -> None:
    console.print(Padding(Text(" ".join(line.split())), (0, 0, 0, 3)))


if __name__ == "__main__":
    sys.exit(main())
