"""Fixtures with small real processes and servers."""

import asyncio
import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvicorn
from pointsman_cli.__main__ import run
from pointsman_cli.up.plan import Service
from pointsman_servicekit.grpc_server import serving

Cli = Callable[..., "Outcome"]


class Outcome:
    """The result of one command line."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command line like `pointsman`, in this process."""

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def example_folder(tmp_path: Path) -> Path:
    """A small valid example."""
    folder = tmp_path / "example"
    (folder / "config").mkdir(parents=True)
    (folder / "handbook").mkdir()
    (folder / "handbook" / "bicycles.md").write_text("# Bicycles\n\nThey travel free.\n")
    (folder / "adapters" / "triage").mkdir(parents=True)
    (folder / "adapters" / "triage" / "adapter_config.json").write_text("{}")
    (folder / "pointsman.yaml").write_text(
        "base_model: smollm2-135m\n"
        "config: config\n"
        "collections: {handbook: handbook}\n"
        "adapters:\n"
        "  triage: {folder: adapters/triage, alias: prod}\n"
    )
    return folder


@pytest.fixture
def python_service(tmp_path: Path) -> Callable[..., Service]:
    """Returns a function that makes a service whose program is a few lines of Python."""

    def make(code: str, name: str = "tiny", grace: float = 10.0) -> Service:
        program = (sys.executable, "-I", "-u", "-c", code)
        return Service(name, program, {}, "127.0.0.1:0", tmp_path / "logs" / f"{name}.log", grace)

    return make


@pytest.fixture
def executable(tmp_path: Path) -> Callable[[str], Path]:
    """Creates a Python script that replaces a Python interpreter; it is called with `-m MODULE ARG...`."""

    def make(code: str) -> Path:
        file = tmp_path / "fake-python"
        file.write_text(f"#!{sys.executable}\n{code}")
        file.chmod(0o755)
        return file

    return make


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yields a folder that every user can enter, with a subfolder `sub` whose permissions a test may remove."""
    with tempfile.TemporaryDirectory() as above:
        folder = Path(above, "notes")
        (folder / "sub").mkdir(parents=True)
        (folder / "lamp.md").write_text("# Lamp\n\nThe lamp is green.\n")
        (folder / "sub" / "bicycles.md").write_text("# Bicycles\n\nA bicycle travels free.\n")
        Path(above).chmod(0o755)
        monkeypatch.chdir(above)
        yield folder
        (folder / "sub").chmod(0o755)


@pytest.fixture
def anybody() -> Callable[[], AbstractContextManager[None]]:
    """Returns a context manager that drops root privileges for its block, because permissions do not apply to root."""

    @contextmanager
    def being() -> Iterator[None]:
        ours = os.geteuid()
        os.seteuid(ours or 65534)
        try:
            yield
        finally:
            os.seteuid(ours)

    return being


PATIENCE = 30.0  # seconds; reached only if a test fails

Until = Callable[[Callable[[], object], str], Awaitable[None]]


@pytest.fixture
def until() -> Until:
    """Waits for a condition; `what` describes it in the error."""

    async def wait(condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}"
            await asyncio.sleep(0.01)

    return wait


@dataclass
class FakeGateway:
    """A small server with the gateway's documented HTTP API. Tests set its answers and read the requests it gets."""

    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    authorization: list[str] = field(default_factory=list)  # of each request
    status: int = 200
    body: Any = None
    stream: list[str] = field(default_factory=list)  # the data of each event
    headers: dict[str, str] = field(default_factory=dict)  # of answers, in addition to those of the decision

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        content = b""
        while True:
            message = await receive()
            content += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.asked.append({"path": scope["path"], **json.loads(content)})
        self.authorization.append(dict(scope["headers"]).get(b"authorization", b"").decode())
        headers = {"content-type": "application/json"}
        if scope["path"] == "/v1/chat/completions" and self.status == 200:
            headers |= DECISION_HEADERS | self.headers
        pieces = [json.dumps(self.body).encode()]
        if self.status == 200 and self.asked[-1].get("stream"):
            pieces = [f"data: {data}\n\n".encode() for data in self.stream]
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": encoded})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


DECISION_HEADERS = {
    "x-pointsman-decision-id": "d-17",
    "x-pointsman-task": "policy_question",
    "x-pointsman-path": "handbook",
    "x-pointsman-kind": "rag",
    "x-pointsman-confidence": "0.9312",
    "x-pointsman-reason": "policy:fixed",
    "x-pointsman-overhead-ms": "3.10",
}


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    fake = FakeGateway()
    server = uvicorn.Server(uvicorn.Config(fake, host="127.0.0.1", port=0, log_config=None, lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fake.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        serving = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        serving.start()
        yield fake
        server.should_exit = True
        serving.join()


@pytest.fixture
def grpc_server() -> Iterator[Callable[..., str]]:
    """Serves a servicer in its own thread, and returns the address."""
    with ExitStack() as stack:

        def start(service: str, register: Callable[[grpc.aio.Server], None]) -> str:
            return stack.enter_context(_serving_in_a_thread(service, register))

        yield start


@contextmanager
def _serving_in_a_thread(service: str, register: Callable[[grpc.aio.Server], None]) -> Iterator[str]:
    loop = asyncio.new_event_loop()
    running = threading.Thread(target=loop.run_forever)
    running.start()
    lifetime = serving("127.0.0.1:0", [service], register, grace=0)
    server = asyncio.run_coroutine_threadsafe(lifetime.__aenter__(), loop).result()
    try:
        yield server.address
    finally:
        asyncio.run_coroutine_threadsafe(lifetime.__aexit__(None, None, None), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        running.join()
        loop.close()
